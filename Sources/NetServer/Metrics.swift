import REST
import Synchronization

/// What a request is, as far as logs and metrics are concerned: a closed set, whatever clients send.
enum Operation: String, CaseIterable, Sendable {
  case load, info, list, store, delete, create, destroy, move, mkdir, rmdir, hash, quota, defrag, gather
  case metrics, health, other

  init(method: RequestHead.Method, path: String, query: String) {
    switch method {
    case .get: self = path.utf8.last == UInt8(ascii: "/") ? .list : .load
    case .head: self = .info
    case .post:
      self = Self.command(query, [.create, .move, .mkdir, .hash, .quota, .defrag, .gather]) ?? .store
    case .delete: self = Self.command(query, [.destroy, .rmdir]) ?? .delete
    case .other: self = .other
    }
  }

  private static func command(_ query: String, _ known: [Operation]) -> Operation? {
    guard !query.isEmpty else { return nil }
    for part in query.split(separator: "&") where part.hasPrefix("cmd=") {
      return known.first { $0.rawValue == part.dropFirst(4) }
    }
    return nil
  }
}

/// Counts of what the server does, in Prometheus' text form. Thread-safe; a class because everybody counts.
final class Metrics: Sendable {
  /// Upper bounds of the latency histogram, in seconds.
  static let bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

  private struct Key: Hashable {
    let operation: Operation
    let status: Int
  }

  private struct Latency {
    var counts = [Int](repeating: 0, count: Metrics.bounds.count + 1)
    var sum = 0.0
  }

  private struct State {
    var requests: [Key: Int] = [:]
    var latencies: [Operation: Latency] = [:]
    var received = 0
    var sent = 0
    var logins: [String: Int] = [:]
    var refusedConnections = 0
    var accepted = 0
    var badRequests = 0
    var repositories: [RepositoryName: RepositoryFacts] = [:]
  }

  private let state = Mutex(State())

  /// One request has been answered, or ended without an answer (status 0).
  func count(_ operation: Operation, status: Int, received: Int, sent: Int, seconds: Double) {
    state.withLock { state in
      state.requests[Key(operation: operation, status: status), default: 0] += 1
      let bucket = Self.bounds.firstIndex { seconds <= $0 } ?? Self.bounds.count
      state.latencies[operation, default: Latency()].counts[bucket] += 1
      state.latencies[operation, default: Latency()].sum += seconds
      state.received += received
      state.sent += sent
    }
  }

  func countLogin(_ result: String) { state.withLock { $0.logins[result, default: 0] += 1 } }
  func countConnection(refused: Bool) {
    state.withLock { state in
      if refused { state.refusedConnections += 1 } else { state.accepted += 1 }
    }
  }
  func countBadRequest() { state.withLock { $0.badRequests += 1 } }

  func replace(repositories: [RepositoryName: RepositoryFacts]) {
    state.withLock { $0.repositories = repositories }
  }

  /// All of them. `connections` and `open` are as they are now.
  func text(connections: Int, openRepositories: Int) -> String {
    let state = state.withLock { $0 }
    var page = MetricsPage()
    page.begin(
      "borg_serve_requests_total", "counter",
      "Requests by operation and status; 0 is one that ended without an answer.")
    for (key, count) in state.requests.sorted(by: {
      ($0.key.operation.rawValue, $0.key.status) < ($1.key.operation.rawValue, $1.key.status)
    }) {
      page.add([("operation", key.operation.rawValue), ("status", String(key.status))], "\(count)")
    }
    page.begin("borg_serve_request_seconds", "histogram", "Time from a request's head to its answer's end.")
    for (operation, latency) in state.latencies.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
      var total = 0
      for (bound, count) in zip(Self.bounds.map { "\($0)" } + ["+Inf"], latency.counts) {
        total += count
        page.add([("operation", operation.rawValue), ("le", bound)], "\(total)", suffix: "_bucket")
      }
      page.add([("operation", operation.rawValue)], "\(latency.sum)", suffix: "_sum")
      page.add([("operation", operation.rawValue)], "\(total)", suffix: "_count")
    }
    page.add("borg_serve_received_bytes_total", "counter", "Bytes of requests' bodies.", state.received)
    page.add("borg_serve_sent_bytes_total", "counter", "Bytes of answers' bodies.", state.sent)
    page.add(
      "borg_serve_malformed_requests_total", "counter", "What was sent and is no request.", state.badRequests)
    page.add("borg_serve_connections_total", "counter", "Connections that were served.", state.accepted)
    page.add(
      "borg_serve_refused_connections_total", "counter", "Connections beyond a limit.",
      state.refusedConnections)
    page.add("borg_serve_connections", "gauge", "Connections now.", connections)
    page.add("borg_serve_open_repositories", "gauge", "Repositories that are open now.", openRepositories)
    page.begin("borg_serve_logins_total", "counter", "Checks of passwords by their result.")
    for (result, count) in state.logins.sorted(by: { $0.key < $1.key }) {
      page.add([("result", result)], "\(count)")
    }
    Self.add(state.repositories, to: &page)
    return page.text
  }

  private static func add(_ repositories: [RepositoryName: RepositoryFacts], to page: inout MetricsPage) {
    let sorted = repositories.sorted { $0.key < $1.key }
    func each(_ name: String, _ help: String, _ value: (RepositoryFacts) -> String?) {
      page.begin(name, "gauge", help)
      for (repository, facts) in sorted {
        if let value = value(facts) { page.add([("repository", repository.text)], value) }
      }
    }
    each("borg_serve_repository_bytes", "Bytes of all objects, as of the last look.") { "\($0.bytes)" }
    each("borg_serve_repository_objects", "Objects, as of the last look.") { "\($0.objects)" }
    each("borg_serve_repository_archives", "Archives, without deleted ones.") { "\($0.archives)" }
    each("borg_serve_repository_quota_bytes", "What the repository may hold.") { $0.quota.map { "\($0)" } }
    each("borg_serve_repository_last_backup_timestamp_seconds", "When the newest archive was stored.") {
      $0.lastBackup.map { "\($0)" }
    }
    each("borg_serve_repository_looked_at_timestamp_seconds", "When these were last looked at.") {
      "\($0.lookedAt)"
    }
  }
}

/// What is known of a repository from outside, without keys.
struct RepositoryFacts: Sendable, Equatable {
  var bytes = 0
  var objects = 0
  var archives = 0
  /// Seconds since 1970.
  var lastBackup: Int64?
  var lookedAt: Int64 = 0
  var quota: UInt64?
}

/// Prometheus' text form, version 0.0.4.
private struct MetricsPage {
  private(set) var text = ""
  private var name = ""

  mutating func begin(_ name: String, _ type: String, _ help: String) {
    self.name = name
    text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
  }

  /// Values of labels are of closed sets, or names of repositories: nothing in them needs an escape.
  mutating func add(_ labels: [(String, String)], _ value: String, suffix: String = "") {
    let labels = labels.map { "\($0.0)=\"\($0.1)\"" }.joined(separator: ",")
    text += "\(name)\(suffix)\(labels.isEmpty ? "" : "{\(labels)}") \(value)\n"
  }

  mutating func add(_ name: String, _ type: String, _ help: String, _ value: Int) {
    begin(name, type, help)
    add([], "\(value)")
  }
}
