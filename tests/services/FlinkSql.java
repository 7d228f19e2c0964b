import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Hands statements of SQL, divided by semicolons, to a cluster: FILE KEY=VALUE … */
class FlinkSql {
  public static void main(String[] arguments) throws Exception {
    Map<String, String> settings = new TreeMap<>();
    for (int at = 1; at < arguments.length; at++) {
      String[] parts = arguments[at].split("=", 2);
      settings.put(parts[0], parts[1]);
    }
    Configuration configuration = Configuration.fromMap(settings);
    TableEnvironment tables =
        TableEnvironment.create(
            EnvironmentSettings.newInstance().withConfiguration(configuration).build());
    for (String statement : Files.readString(Path.of(arguments[0])).split(";")) {
      if (!statement.isBlank()) {
        tables
            .executeSql(statement.strip())
            .getJobClient()
            .ifPresent(job -> System.out.println("job " + job.getJobID()));
      }
    }
  }
}
