"""The built-in model's corpus. It generates only these words, in roughly this order."""

SENTENCES = """
The gateway takes a request and hands it to a worker .
The worker runs the model and sends one token at a time .
A stream begins with a start , goes on with deltas and comes to an end .
A delta brings the next piece of the text .
The end tells why the text is over and how many tokens it cost .
Every message has a name , a number and a type .
A field that is not set is not zero .
The client reads the stream until the end .
A request that nobody reads is soon cancelled .
When the client goes away , the worker stops .
When the queue is full , the gateway says so at once .
One contract serves many clients in many languages .
The contract grows , but what was written once still works .
We meet in a café at noon and talk about tokens .
A short prompt is a small naïve question .
One , two , three , four and five are numbers .
The answer is short — the model is small 🙂 .
It is a model for tests , so it knows very little .
The same prompt and the same seed give the same text .
A test that reads well is a test that people keep .
"""


def sentences() -> list[str]:
    """Each sentence as text: a space before every word, none before a punctuation mark."""
    lines = SENTENCES.strip().splitlines()
    return [" " + line.replace(" .", ".").replace(" ,", ",") for line in lines]


def words() -> list[str]:
    """Every word once, in the order of first use."""
    marks = str.maketrans("", "", ".,")
    return list(dict.fromkeys(SENTENCES.translate(marks).split()))
