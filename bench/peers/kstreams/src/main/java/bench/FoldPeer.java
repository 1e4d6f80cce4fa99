package bench;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * orders -> checked -> store "orders" with its changelog -> one event each, until it is told to end.
 *
 * <p>Everything that is not named here is Kafka Streams' default. What it prints, one line each, is for the bench: {@code
 * state NAME MILLIS} at each change of state and {@code restored RECORDS FIRST_MILLIS LAST_MILLIS} when all restores have
 * ended so far; times are since the epoch.
 */
public final class FoldPeer {
  private static final String STORE = "orders";
  private static final String[] NEEDED = {
    "order_uid", "track_number", "delivery", "payment", "items", "customer_id"
  };

  private FoldPeer() {}

  /** Arguments: bootstrap servers, application id, input, output, state directory, threads, guarantee. */
  public static void main(String[] arguments) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[1]);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[4]);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Integer.valueOf(arguments[5]));
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, arguments[6]);
    settings.put("auto.offset.reset", "earliest");

    KafkaStreams streams = new KafkaStreams(topology(arguments[2], arguments[3]), settings);
    streams.setStateListener(
        (state, before) -> System.out.println("state " + state + " " + System.currentTimeMillis()));
    streams.setGlobalStateRestoreListener(new Restores());
    // Leaving the group spares the next start a wait for this member's session to end.
    KafkaStreams.CloseOptions leaving =
        new KafkaStreams.CloseOptions().leaveGroup(true).timeout(Duration.ofSeconds(15));
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(leaving)));
    streams.start();
  }

  private static Topology topology(String input, String output) {
    Serde<String> text = Serdes.String();
    Serde<byte[]> bytes = Serdes.ByteArray();
    return new Topology()
        .addSource("input", text.deserializer(), bytes.deserializer(), input)
        .addProcessor("accept", Accept::new, "input")
        .addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), text, bytes), "accept")
        .addSink("output", output, text.serializer(), bytes.serializer(), "accept");
  }

  /** Check, remember, tell. */
  private static final class Accept extends ContextualProcessor<String, byte[], String, byte[]> {
    private final ObjectMapper mapper = new ObjectMapper();
    private KeyValueStore<String, byte[]> orders;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
      super.init(context);
      orders = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<String, byte[]> record) {
      try {
        JsonNode order = mapper.readTree(record.value());
        check(order);
        long version = 1 + versionOf(orders.get(record.key()));
        orders.put(record.key(), state(order, version));
        context().forward(record.withValue(event(order, version)));
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }

    private static void check(JsonNode order) {
      for (String name : NEEDED) {
        if (!order.hasNonNull(name)) {
          throw new IllegalArgumentException(name + " is missing");
        }
      }
      long sum = 0;
      for (JsonNode item : order.get("items")) {
        sum += item.get("total_price").asLong();
      }
      if (sum != order.get("payment").get("goods_total").asLong()) {
        throw new IllegalArgumentException("goods_total is not the sum of the items");
      }
    }

    private long versionOf(byte[] stored) throws IOException {
      return stored == null ? 0 : mapper.readTree(stored).get("version").asLong();
    }

    private byte[] state(JsonNode order, long version) throws JsonProcessingException {
      ObjectNode state = mapper.createObjectNode().put("status", "accepted").put("version", version);
      state.set("order", order);
      return mapper.writeValueAsBytes(state);
    }

    private byte[] event(JsonNode order, long version) throws JsonProcessingException {
      return mapper.writeValueAsBytes(
          mapper
              .createObjectNode()
              .put("type", "order.accepted")
              .put("order_uid", order.get("order_uid").asText())
              .put("amount", order.get("payment").get("amount").asLong())
              .put("version", version));
    }
  }

  /** When the first restore began, when the last one ended, and how many records they brought. */
  private static final class Restores implements StateRestoreListener {
    private long began = Long.MAX_VALUE;
    private long records;

    @Override
    public synchronized void onRestoreStart(TopicPartition partition, String store, long first, long end) {
      began = Math.min(began, System.currentTimeMillis());
    }

    @Override
    public void onBatchRestored(TopicPartition partition, String store, long last, long count) {}

    @Override
    public synchronized void onRestoreEnd(TopicPartition partition, String store, long total) {
      records += total;
      System.out.println("restored " + records + " " + began + " " + System.currentTimeMillis());
    }
  }
}
