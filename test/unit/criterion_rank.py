"""One rank of the criterion's test with several processes; a module of its own, so that a new process can import it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from support.random_targets import CONFIG, gradients, prediction_part, predictions, target_part, targets

from pivotnet.criterion.criterion import Criterion

COUNTS = ((6, 3, 4), (1, 0, 2), (0, 0, 0), (3, 5, 17))


def work(rank: int, ranks: int, folder: str) -> None:
    """Save terms and gradients of the sample of that rank as FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/start", rank=rank, world_size=ranks)
    own = slice(rank, rank + 1)
    predicted, drawn = prediction_part(predictions(ranks), own), target_part(targets(*COUNTS[:ranks]), own)
    result = Criterion(CONFIG)(predicted, drawn)
    result.total.backward()
    torch.save({"terms": result.terms, "gradients": gradients(predicted)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
