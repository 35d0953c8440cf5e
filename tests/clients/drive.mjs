// As drive.py, for the clients of Node: node drive.mjs CLIENT URL PICTURE, run in the folder that holds node_modules.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [client, baseURL, file] = process.argv.slice(2);
const find = createRequire(process.cwd() + "/package.json");
const load = (name) => import(pathToFileURL(find.resolve(name)));
const QUESTION = "how many apples are there?";
const PROMPT = "two red apples";
const bytes = readFileSync(file);
const url = "data:image/png;base64," + bytes.toString("base64");

async function openaiNode() {
  const { OpenAI } = await load("openai");
  const openai = new OpenAI({ baseURL, apiKey: "none" });
  const content = [{ type: "text", text: QUESTION }, { type: "image_url", image_url: { url } }];
  const body = { model: "nano", messages: [{ role: "user", content }] };
  const whole = await openai.chat.completions.create(body);
  let streamed = "";
  for await (const chunk of await openai.chat.completions.create({ ...body, stream: true }))
    streamed += chunk.choices[0]?.delta?.content ?? "";
  const parts = [{ type: "input_text", text: QUESTION }, { type: "input_image", image_url: url }];
  const response = await openai.responses.create({ model: "nano", input: [{ role: "user", content: parts }] });
  const drawing = await openai.images.generate({ model: "nano", prompt: PROMPT });
  const answers = [whole.choices[0].message.content, streamed, response.output_text];
  return { answers, pictures: [drawing.data[0].b64_json] };
}

async function aiSdk(language, image) {
  const { generateText, streamText, generateImage, experimental_generateImage } = await load("ai");
  const content = [{ type: "text", text: QUESTION }, { type: "image", image: bytes }];
  const messages = [{ role: "user", content }];
  const whole = await generateText({ model: language, messages });
  let streamed = "";
  for await (const text of streamText({ model: language, messages }).textStream) streamed += text;
  const drawing = await (generateImage ?? experimental_generateImage)({ model: image, prompt: PROMPT });
  return { answers: [whole.text, streamed], pictures: [drawing.image.base64] };
}

const clients = {
  "openai-node": openaiNode,
  "ai-sdk-openai": async () => {
    const openai = (await load("@ai-sdk/openai")).createOpenAI({ baseURL, apiKey: "none" });
    return aiSdk(openai("nano"), openai.image("nano"));
  },
  "ai-sdk-openai-compatible": async () => {
    const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
    const janus = createOpenAICompatible({ name: "janus", baseURL, apiKey: "none" });
    return aiSdk(janus("nano"), janus.imageModel("nano"));
  },
};
console.log(JSON.stringify(await clients[client]()));
