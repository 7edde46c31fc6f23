"""The endpoint: OpenAI-compatible chat and visual question answering in front of vLLM, on Ray Serve (docs/serving.md)."""
