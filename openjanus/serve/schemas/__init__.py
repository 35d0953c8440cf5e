"""The API's schemas: requests and answers of OpenAI's endpoints, as far as Janus supports them; one module an endpoint.

Nothing of the engine is imported here, so that vLLM's server uses the same schemas. An unknown field is an error. A
known but unsupported field is accepted only with its neutral value. Fields that do not change an answer are ignored. A
null counts as a missing field.
"""
