"""The verbs over HTTP and MCP: who may ask is decided here, the front door says what is answered.

`app` and `mcp` join the parts; `guard` stands in front of every request, `access` in front of every
user. `chat` lets chats through to a language model, personalised.
"""
