from __future__ import annotations

import numpy as np

from cache.reader import Cache
from heads.data.dataset import load_dataset
from heads.data.splits import choose_split
from heads.models.model import ModelConfig
from heads.models.regression import fit_regression
from heads.scoring.floors import token_statistics
from heads.scoring.metrics import auroc
from heads.training.batched import FitJob
from heads.training.config import TrainConfig
from heads.training.epochs import FitResult
from heads.training.fit import predict_logits
from heads.training.jobs import fit_jobs, one_channel
from heads.training.logistic import block_columns, pooled_inputs, statistics_blocks


def test_a_logistic_head_is_its_regressions(toy_cache: Cache) -> None:
    config = TrainConfig(n_resamples=0).updated({"model": "logistic"})
    data = load_dataset(toy_cache, separate_streams=True)
    split = choose_split(data.labels, data.splits, data.groups)
    jobs = [FitJob(config, split.train, split.val)]
    (found,) = fit_jobs(data.tokens, data.labels, jobs, stream_dims=data.stream_dims, groups=data.groups)
    assert isinstance(found, FitResult)
    logits = predict_logits(found.model, data.tokens, np.arange(len(data)))
    each = []
    for channel in range(2):
        for block in np.split(token_statistics(one_channel(data.tokens, channel)), 2, axis=1):
            each.append(fit_regression(block, data.labels, split.train, groups=data.groups).logits(block))
    np.testing.assert_allclose(logits, np.mean(each, axis=0), atol=1e-4)
    assert found.model.n_parameters == 2 * sum(data.stream_dims) + 1
    assert (auroc(data.labels[split.val], logits[split.val]) or 0) > 0.9


def test_blocks_are_the_columns_that_the_head_reads(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=True)
    config = ModelConfig(architecture="logistic", delta="beside")
    widths = [part.stop - part.start for part in block_columns(config, data.stream_dims)]
    assert widths == [24, 24, 16, 16]
    blocks = statistics_blocks(config, data.stream_dims, data.tokens)
    assert [block.shape for block in blocks] == [(len(data), width) for width in widths]
    from heads.models.model import HeadModel

    some = np.array([7, 3])
    model = HeadModel(config, data.stream_dims)
    np.testing.assert_allclose(
        pooled_inputs(model, data.tokens, some), np.concatenate(blocks, axis=1)[some], atol=1e-5
    )
