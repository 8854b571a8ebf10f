// An application's session with the official client: BASE_URL, API_KEY and MODEL in the environment, what it saw on
// standard output as one JSON object.
import OpenAI, { AuthenticationError, NotFoundError } from "openai";

const { BASE_URL: baseURL, API_KEY: apiKey, MODEL: model } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });
const messages = [{ role: "user", content: "one two three" }];

async function errorOf(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return error;
  }
}

const seen = {};
seen.models = [];
for await (const listed of client.models.list()) seen.models.push(listed.id);

const { data: whole, response } = await client.chat.completions.create({ model, messages }).withResponse();
seen.whole = { id: whole.id, text: whole.choices[0].message.content, tokens: whole.usage.total_tokens };
seen.adapter = response.headers.get("x-finetune-adapter");

const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
const streamed = { pieces: [], finish: null, tokens: null };
for await (const chunk of stream) {
  streamed.pieces.push(...chunk.choices.map((choice) => choice.delta.content).filter(Boolean));
  streamed.finish = chunk.choices[0]?.finish_reason ?? streamed.finish;
  streamed.tokens = chunk.usage?.total_tokens ?? streamed.tokens;
}
seen.streamed = streamed;

seen.feedback = await client.post("/feedback", { body: { interaction_id: whole.id, rating: "up" } });

const stranger = new OpenAI({ baseURL, apiKey: "sk-not-one-of-ours", maxRetries: 0 });
const refused = await errorOf(stranger.models.list());
seen.refused = { authentication: refused instanceof AuthenticationError, status: refused?.status, type: refused?.type };
const missing = await errorOf(client.chat.completions.create({ model: "nothing", messages }));
seen.missing = { notFound: missing instanceof NotFoundError, code: missing?.code, param: missing?.param };

console.log(JSON.stringify(seen));
