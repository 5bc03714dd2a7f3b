"""The verbs over HTTP: who may ask is decided here, what is answered is the front door's business.

`app` joins the parts; `guard` stands in front of every request, `access` in front of every user.
`chat` lets chats through to a language model, personalised.
"""
