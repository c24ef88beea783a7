package executor;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.Map;

/** Reads requests and writes replies, a line of JSON each; see executor.py. */
public final class Main {
  private static final HexFormat HEX = HexFormat.of();
  private static final Map<String, String> PACKAGES =
      Map.ofEntries(
          Map.entry("entity.grpc", "entity"),
          Map.entry("mlx.grpc.engine", "mlx.engine"),
          Map.entry("openengine.v1", "openengine.v1"),
          Map.entry("sagellm.v1", "sagellm.v1"),
          Map.entry("sglang.grpc.encoder", "sglang.encoder"),
          Map.entry("sglang.grpc.scheduler", "sglang.scheduler"),
          Map.entry("sglang.runtime.v1", "sglang.runtime.v1"),
          Map.entry("smg.grpc.common", "common"),
          Map.entry("smg.v1", "smg.v1"),
          Map.entry("tokenspeed.grpc.encoder", "tokenspeed.encoder"),
          Map.entry("tokenspeed.grpc.scheduler", "tokenspeed.scheduler"),
          Map.entry("trtllm", "trtllm"),
          Map.entry("vllm", "vllm"),
          Map.entry("vllm.grpc.engine", "vllm.engine"));

  private Main() {}

  /** The generated class of a message, a nested one included. */
  private static Message.Builder builder(String message) {
    // The longest: vllm is a package, and vllm.grpc.engine another.
    String proto =
        PACKAGES.keySet().stream()
            .filter(name -> message.startsWith(name + "."))
            .max(Comparator.comparingInt(String::length))
            .orElseThrow(() -> new IllegalArgumentException("no message " + message));
    String inside = message.substring(proto.length() + 1).replace('.', '$');
    try {
      return (Message.Builder)
          Class.forName("io.smgproto." + PACKAGES.get(proto) + "." + inside)
              .getMethod("newBuilder")
              .invoke(null);
    } catch (ReflectiveOperationException error) {
      throw new IllegalArgumentException("no message " + message, error);
    }
  }

  private static JsonObject answer(JsonObject request) throws InvalidProtocolBufferException {
    Message.Builder builder = builder(request.get("message").getAsString());
    JsonObject reply = new JsonObject();
    JsonElement hex = request.get("hex");
    if (hex == null) {
      JsonFormat.parser().merge(request.get("json").toString(), builder);
    } else {
      builder.mergeFrom(HEX.parseHex(hex.getAsString()));
      reply.add("json", JsonParser.parseString(JsonFormat.printer().print(builder)));
    }
    reply.addProperty("hex", HEX.formatHex(builder.build().toByteArray()));
    return reply;
  }

  public static void main(String[] args) throws IOException {
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    BufferedReader in =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      JsonObject reply;
      try {
        reply = answer(JsonParser.parseString(line).getAsJsonObject());
      } catch (InvalidProtocolBufferException | RuntimeException error) {
        reply = new JsonObject();
        reply.addProperty("error", error.toString());
      }
      out.println(reply);
    }
    out.flush();
  }
}
