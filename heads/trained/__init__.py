"""A head that is done: predict, checkpoint, score over time, another threshold, ONNX."""
