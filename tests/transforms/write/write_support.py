"""What the tests of writing share: tokens, batches, staged files."""

import pyarrow as pa
from millstream.transforms.plan import Token
from millstream.transforms.receipts import Part, content_digest
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.stage import Sink


def token(run_id="r1", plan="a"):
    return Token(run_id, plan * 64)


def numbers(*values, source="s"):
    """A batch of records with identity columns."""
    return pa.RecordBatch.from_pydict(
        {
            "n": pa.array(values, pa.int64()),
            "_source": pa.array([source] * len(values), pa.string()).dictionary_encode(),
            "_position": pa.array(range(len(values)), pa.int64()),
            "_payload": pa.array([b"%d" % v for v in values], pa.binary()),
        }
    )


def staged(output: Output, token: Token, *files, part: Part = "data"):
    """Each file's batch, staged as a file of its own."""
    receipts = []
    for batch in files:
        columns = batch.drop_columns(["_source", "_position", "_payload"])
        sink = Sink(output, token, part, columns.schema)
        sink.write(columns, batch)
        receipts.append(sink.close())
    return receipts


def commit(output: Output, token: Token, receipts):
    output.destination.commit(Commit(token, content_digest(receipts), tuple(receipts)))
