"""Lose a connection, and go on where it broke: ``python examples/resume.py [MODEL]``."""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("GATEWAY", "http://127.0.0.1:9000/v1"), api_key="none")
model = sys.argv[1] if len(sys.argv) > 1 else client.models.list().data[0].id
numbers: list[int] = []
id = ""
with client.responses.create(model=model, input="Count to ten.", stream=True, background=True) as events:
    for event in events:
        numbers.append(event.sequence_number)
        if event.type == "response.created":
            id = event.response.id
        if event.type == "response.output_text.delta":
            break  # The train is in a tunnel.

rest = client.responses.retrieve(id, stream=True, starting_after=numbers[-1])
numbers += [event.sequence_number for event in rest]
assert numbers == list(range(len(numbers)))
print(f"{len(numbers)} events, none twice and none lost")
