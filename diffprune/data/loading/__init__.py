"""From encoded images to batches: decoding, transforms, order, memory or stream."""
