"""Amazon's own list of prices, asked for one region: of machines of the size ``large``; all sizes are multiples."""

from __future__ import annotations

import json
from typing import Any

from clusterglm.clusters.cloud.ec2 import api
from clusterglm.clusters.machines import FAMILIES
from clusterglm.errors import ClusterError

REGION = "us-east-1"  # where the list is, of all regions
_LINUX = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}


def large(pricing: Any, region: str) -> dict[str, float]:
    """Return the dollars of an hour of each family's ``large`` in a region, without those that it does not have.

    Raises
    ------
    ClusterError
        AWS refuses, or knows no prices of that region.
    """
    found = {}
    for family in FAMILIES:
        wanted = _LINUX | {"regionCode": region, "instanceType": f"{family}.large"}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        with api.told("prices", region):
            answer = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters, MaxResults=10)
        dollars = [price for text in answer["PriceList"] for price in _dollars(json.loads(text))]
        if dollars:
            found[family] = min(dollars)
    if not found:
        raise ClusterError("--region", region, "Amazon tells no prices of it: is it the name of a region?")
    return found


def _dollars(product: dict[str, Any]) -> list[float]:
    """Return the prices of an hour on demand that a product has; 0 is that of capacity which somebody has reserved."""
    terms = product.get("terms", {}).get("OnDemand", {}).values()
    dimensions = [dimension for term in terms for dimension in term["priceDimensions"].values()]
    prices = [float(each["pricePerUnit"].get("USD", 0)) for each in dimensions if each.get("unit") == "Hrs"]
    return [price for price in prices if price > 0]
