"""Stateful OpenAI Responses and Conversations APIs in front of vLLM, on Trio."""
