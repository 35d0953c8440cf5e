"""Runs in the environment of the clients: `drive.py CLIENT URL PICTURE` asks and draws as CLIENT does by default and
prints {"answers": [...], "pictures": [...]}: each answer about PICTURE, each drawing in base64. See test_clients.py."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

QUESTION = "how many apples are there?"
PROMPT = "two red apples"
Found = tuple[list[str], list[str]]


def parts(picture: str) -> list[dict]:
    return [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": picture}}]


def user(picture: str) -> list[dict]:
    return [{"role": "user", "content": parts(picture)}]


def openai_python(url: str, picture: str) -> Found:
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none")
    whole = client.chat.completions.create(model="nano", messages=user(picture))
    stream = client.chat.completions.create(model="nano", messages=user(picture), stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    content = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": picture}]
    question = [{"role": "user", "content": content}]
    response = client.responses.create(model="nano", input=question)
    events = client.responses.create(model="nano", input=question, stream=True)
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    drawing = client.images.generate(model="nano", prompt=PROMPT)
    drawn = [event.b64_json for event in client.images.generate(model="nano", prompt=PROMPT, stream=True)]
    answers = [whole.choices[0].message.content, streamed, response.output_text, deltas]
    return answers, [drawing.data[0].b64_json, drawn[-1]]


def langchain(url: str, picture: str) -> Found:
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=url, api_key="none", model="nano")
    messages = [HumanMessage(parts(picture))]
    return [model.invoke(messages).content, "".join(chunk.content for chunk in model.stream(messages))], []


def litellm_sdk(url: str, picture: str) -> Found:
    import litellm

    settings = {"model": "openai/nano", "api_base": url, "api_key": "none"}
    whole = litellm.completion(messages=user(picture), **settings)
    stream = litellm.completion(messages=user(picture), stream=True, **settings)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    drawing = litellm.image_generation(prompt=PROMPT, **settings)
    return [whole.choices[0].message.content, streamed], [drawing.data[0].b64_json]


def litellm_proxy(url: str, picture: str) -> Found:
    """url: the proxy's."""
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key=os.environ["LITELLM_MASTER_KEY"])
    whole = client.chat.completions.create(model="nano", messages=user(picture))
    stream = client.chat.completions.create(model="nano", messages=user(picture), stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    drawing = client.images.generate(model="nano", prompt=PROMPT)
    return [whole.choices[0].message.content, streamed], [drawing.data[0].b64_json]


def llm(url: str, picture: str) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "extra-openai-models.yaml").write_text(
            f"- model_id: janus\n  model_name: nano\n  api_base: {url}\n  api_key_name: janus\n  vision: true\n"
        )
        file = Path(folder, "picture.png")
        file.write_bytes(base64.b64decode(picture.partition(",")[2]))
        program = [
            str(Path(sys.executable).with_name("llm")),
            "-m",
            "janus",
            QUESTION,
            "-a",
            str(file),
            "--key",
            "none",
        ]
        environment = {**os.environ, "LLM_USER_PATH": folder}
        runs = [
            subprocess.run([*program, *more], env=environment, check=True, capture_output=True, text=True, timeout=120)
            for more in ([], ["--no-stream"])
        ]
    return [run.stdout for run in runs], []


def pydantic_ai(url: str, picture: str) -> Found:
    from pydantic_ai import Agent, BinaryContent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel("nano", provider=OpenAIProvider(base_url=url, api_key="none")))
    data = base64.b64decode(picture.partition(",")[2])
    return [agent.run_sync([QUESTION, BinaryContent(data=data, media_type="image/png")]).output], []


def open_webui(url: str, picture: str) -> Found:
    """url: Open WebUI's own. What its page does: a question with a picture, a title for the talk, a drawing."""
    import httpx

    with httpx.Client(base_url=url, timeout=120) as page:

        def post(path: str, body: dict) -> httpx.Response:
            return page.post(path, json=body).raise_for_status()

        token = post("/api/v1/auths/signin", {"email": "", "password": ""}).json()["token"]
        page.headers["Authorization"] = f"Bearer {token}"
        page.get("/api/models").raise_for_status()
        chat = {"model": "nano", "messages": user(picture)}
        whole = post("/api/chat/completions", {**chat, "stream": False}).json()
        stream = post("/api/chat/completions", {**chat, "stream": True}).text
        lines = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
        choices = [choice for line in lines for choice in json.loads(line)["choices"]]
        talk = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "2"}]
        title = page.post("/api/v1/tasks/title/completions", json={"model": "nano", "messages": talk})
        # Its instructions are longer than the bundled model's context: it must be told so, and uses the question.
        if title.status_code != 400 or title.json()["error"]["code"] != "context_length_exceeded":
            raise RuntimeError(f"title: {title.status_code} {title.text}")
        drawing = post("/api/v1/images/generations", {"prompt": PROMPT}).json()
        png = page.get(drawing[0]["url"]).raise_for_status().content
    streamed = "".join(choice["delta"].get("content") or "" for choice in choices)
    return [whole["choices"][0]["message"]["content"], streamed], [base64.b64encode(png).decode()]


CLIENTS: dict[str, Callable[[str, str], Found]] = {
    "openai-python": openai_python,
    "langchain-openai": langchain,
    "litellm": litellm_sdk,
    "litellm-proxy": litellm_proxy,
    "llm": llm,
    "pydantic-ai": pydantic_ai,
    "open-webui": open_webui,
}

if __name__ == "__main__":
    client, url, file = sys.argv[1:]
    picture = "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()
    answers, pictures = CLIENTS[client](url, picture)
    print(json.dumps({"answers": answers, "pictures": pictures}))
