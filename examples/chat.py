"""Talk to a model that remembers: ``python examples/chat.py [MODEL]``. An empty line ends it.

It is an ordinary client of a gateway on port 9000; the conversation's id is all that it keeps.
"""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("GATEWAY", "http://127.0.0.1:9000/v1"), api_key="none")
model = sys.argv[1] if len(sys.argv) > 1 else client.models.list().data[0].id
conversation = client.conversations.create()
while question := input("You: "):
    with client.responses.create(
        model=model, conversation=conversation.id, input=question, stream=True
    ) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()
