"""What a training says: terminal, figures, report.html, TensorBoard, files of scores."""
