"""What the flow's process and a worker process say to each other: the first byte of a message says what it is."""

#: To the worker: a body to be run.
BODY = b"B"
#: To the worker: there will be none any more.
LEAVE = b"Q"
#: From the worker: the body begins.
BEGUN = b"S"
#: From the worker: a line that the body logged.
LINE = b"L"
#: From the worker: text that the body printed.
TEXT = b"T"
#: From the worker: how the body ended.
OUTCOME = b"O"
