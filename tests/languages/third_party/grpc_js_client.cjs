// grpc-js and proto-loader over the proto files: prints a reply, a stream, and the reason of an error.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, folder] = process.argv.slice(2);
const load = (file) =>
  grpc.loadPackageDefinition(loader.loadSync(file, { includeDirs: [folder], oneofs: true }));
const service = load("smg/v1/completion.proto").smg.v1.CompletionService;
const client = new service(address, grpc.credentials.createInsecure());
const request = { model: "demo-model", prompt: "One contract", maxTokens: 8 };

client.Complete(request, (_, reply) => {
  console.log(reply.text);
  let text = "";
  const stream = client.StreamComplete(request);
  stream.on("data", (event) => (text += event.delta ? event.delta.text : ""));
  stream.on("end", () => {
    console.log(text);
    client.Complete({ model: "nope", prompt: "x" }, (error) => {
      const details = error.metadata.get("grpc-status-details-bin")[0].toString("latin1");
      console.log(grpc.status[error.code], details.match(/[A-Z]+_[A-Z_]+/)[0]);
      client.close();
    });
  });
});
