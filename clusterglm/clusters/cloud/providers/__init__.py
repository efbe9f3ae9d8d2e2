"""The clouds whose machines dask-cloudprovider starts, one file each, imported when their cloud is spoken to."""
