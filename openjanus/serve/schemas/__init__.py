"""The API's words: requests and answers of OpenAI's endpoints, as far as Janus has them; one module an endpoint.

Nothing of the engine is imported here: whoever serves the same API takes the same files. An unknown field is an error.
A field that we know but cannot honour is accepted at its neutral value only, and a preference that changes no answer is
read and ignored. null is the same as a field that is left out.
"""
