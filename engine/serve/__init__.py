"""The server: the Open Inference Protocol over REST and gRPC, batching, workers, reload."""
