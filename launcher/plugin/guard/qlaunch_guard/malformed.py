"""What is no HTTP is refused in the form of every other error: uvicorn answers in plain text.

It answers by itself, before there is a request, so no application and no guard sees it.
"""

from qlaunch_guard.refusal import Refused

_MESSAGE = (
    "this is not a request of HTTP/1.1: its first line, a header or its length cannot be read"
)


def told_in_json(protocol):
    """Have a protocol class of uvicorn's answer in JSON, and end the connection as it does."""
    answer = _answer()

    def send_400_response(self, _msg):
        self.transport.write(answer)
        self.transport.close()

    protocol.send_400_response = send_400_response


def _answer():
    """The same for every such request: nothing of it is quoted."""
    body = Refused(400, _MESSAGE, code="bad_http").body
    head = (
        "HTTP/1.1 400 Bad Request",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
