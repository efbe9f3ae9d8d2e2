"""Makes a command of clusterglm end, or EC2 refuse it, at a chosen call of its API: a ``sitecustomize`` for it.

``folder(path)`` is put first on PYTHONPATH. In a rehearsal it writes the action of each call into the file CALLS, and
at call number AT does what FAULT says: ``kill-before`` and ``kill-after`` its answer, or answer with an error of that
code, ``every-3`` of them all.

Other clouds' requests are written into the file REQUESTS, a question that is repeated once, and the command ends before
the one of number AT.
"""

from __future__ import annotations

from pathlib import Path

_SITE = """
import os

if "CALLS" in os.environ and "CLUSTERGLM_REHEARSAL" in os.environ:
    import re, signal
    import aiobotocore.httpsession, botocore.awsrequest, botocore.httpsession

    CALLS, AT, FAULT = os.environ["CALLS"], int(os.environ.get("AT", "-1")), os.environ.get("FAULT", "")
    ACTION = os.environ.get("ACTION", "")

    def count(request):
        body = request.body.decode() if isinstance(request.body, bytes) else str(request.body or "")
        action = (re.findall(r"Action=(\\w+)", body) or [request.headers.get("X-Amz-Target", "?")])[0]
        action = action.decode() if isinstance(action, bytes) else action
        if ACTION and action != ACTION:
            return -1
        with open(CALLS, "a+") as file:
            file.write(f"{action}\\n")
            file.seek(0)
            return len(file.readlines()) - 1

    def die(number, when):
        if number == AT and FAULT == f"kill-{when}":
            os.kill(os.getpid(), signal.SIGKILL)

    def faulty(number):
        every = int(FAULT.partition("every-")[2].partition(":")[0] or 0)
        return bool(every and number >= 0 and number % every == every - 1) or (number == AT and FAULT[:4] != "kill")

    class Raw:
        def __init__(self, content):
            self.content = content
        def stream(self, *_, **__):
            yield self.content

    def refusal(request):
        code = FAULT.rpartition(":")[2] or FAULT
        status = 500 if code == "InternalError" else 503 if code == "RequestLimitExceeded" else 400
        body = f"<Response><Errors><Error><Code>{code}</Code><Message>injected</Message></Error></Errors></Response>"
        if "X-Amz-Target" in request.headers:
            body = f'{{"__type": "{code}", "message": "injected"}}'
        answer = botocore.awsrequest.AWSResponse(request.url, status, {}, Raw(body.encode()))
        answer._content = body.encode()
        return answer

    send = botocore.httpsession.URLLib3Session.send
    def sync_send(self, request):
        number = count(request)
        die(number, "before")
        if FAULT and faulty(number):
            return refusal(request)
        answer = send(self, request)
        die(number, "after")
        return answer
    botocore.httpsession.URLLib3Session.send = sync_send

    asend = aiobotocore.httpsession.AIOHTTPSession.send
    async def async_send(self, request):
        number = count(request)
        die(number, "before")
        if FAULT and faulty(number):
            answer = refusal(request)
            import aiobotocore.awsrequest
            made = aiobotocore.awsrequest.AioAWSResponse(answer.url, answer.status_code, answer.headers, answer.raw)
            made._content = answer._content
            return made
        answer = await asend(self, request)
        die(number, "after")
        return answer
    aiobotocore.httpsession.AIOHTTPSession.send = async_send

if "REQUESTS" in os.environ and "CLUSTERGLM_REHEARSAL" in os.environ:
    import http.client, signal, threading

    lock, put = threading.Lock(), http.client.HTTPConnection.putrequest
    def putrequest(self, method, url, *given, **words):
        line = f"{method} {url.partition('?')[0]}"
        with lock, open(os.environ["REQUESTS"], "a+") as file:
            file.seek(0)
            seen = file.read().splitlines()
            if method != "GET" or line not in seen[-1:]:
                if len(seen) == int(os.environ["AT"]):
                    os.kill(os.getpid(), signal.SIGKILL)
                file.write(line + "\\n")
        return put(self, method, url, *given, **words)
    http.client.HTTPConnection.putrequest = putrequest
"""


def folder(path: Path) -> Path:
    """Make the folder for PYTHONPATH, and return it."""
    path.mkdir()
    (path / "sitecustomize.py").write_text(_SITE)
    return path
