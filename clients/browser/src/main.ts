// A page that streams a chat, over Connect or over gRPC-Web.
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { ChatService } from "smg-grpc-proto/smg/v1/chat";
import { Role } from "smg-grpc-proto/smg/v1/content";
import { collect } from "smg-grpc-proto/smg/v1/streams";

const transports = { Connect: createConnectTransport, "gRPC-Web": createGrpcWebTransport };

async function ask(question: string, protocol: keyof typeof transports): Promise<string> {
  const chat = createClient(ChatService, transports[protocol]({ baseUrl: location.origin }));
  const messages = [{ role: Role.USER, content: question }];
  const stream = collect(chat.streamChat({ model: "demo-model", messages }));
  for await (const text of stream.textDeltas) {
    document.querySelector("#reply")!.append(text);
  }
  return `${(await stream.reply()).usage?.completionTokens} tokens`;
}

document.querySelector("form")!.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target as HTMLFormElement);
  const [reply, state] = [document.querySelector("#reply")!, document.querySelector("#state")!];
  reply.textContent = state.textContent = "";
  const protocol = form.get("protocol") as keyof typeof transports;
  state.textContent = await ask(String(form.get("question")), protocol).catch(
    (error: unknown) => ConnectError.from(error).message,
  );
});
