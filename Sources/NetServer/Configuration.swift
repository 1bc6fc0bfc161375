public import BorgFormat

/// What a network server is to do, as its file says: every key with its default. docs/network.md describes them.
public struct Configuration: Sendable {
  /// Where repositories are; `alice/laptop` is a directory below.
  public var root = ""
  /// The file with users' passwords; nil: nobody has one.
  public var credentials: String?
  public var listeners: [Listener] = []
  /// Who may do what, by user name.
  public var users: [String: Grant] = [:]
  /// What those may do who give no user; nil: nothing.
  public var anonymous: Grant?
  /// Bytes that each of some repositories may hold.
  public var repositoryQuotas: [RepositoryName: UInt64] = [:]
  public var proxy = Proxy()
  public var limits = NetworkLimits()
  public var log = LogOptions()
  /// Whether passwords may pass over TCP without TLS beyond this machine.
  public var allowsPlaintext = false
  public var umask: UInt32 = 0o077
  /// Threads for what waits for disks; nil: by the number of cores.
  public var threads: Int?
  /// Seconds between two looks at what repositories hold, for their metrics; 0: never.
  public var repositoryMetricsInterval = 900
  /// Whether the kernel is to keep the process to the directories that it needs.
  public var confines = true

  public init() {}

  /// What somebody may reach.
  public struct Grant: Sendable, Equatable {
    public var repositories: [RepositoryPattern]
    public var permissions: Permissions
    /// Bytes in all of this user's repositories together.
    public var quota: UInt64?
    /// Whether `/metrics` and `/healthz` are for them too.
    public var metrics: Bool

    public init(
      repositories: [RepositoryPattern], permissions: Permissions = .all, quota: UInt64? = nil,
      metrics: Bool = false
    ) {
      (self.repositories, self.permissions, self.quota, self.metrics) = (
        repositories, permissions, quota, metrics
      )
    }
  }

  /// Something that clients connect to.
  public struct Listener: Sendable {
    public var place: Place
    public var tls: TLS?
    /// Whether `/metrics` and `/healthz` are for everybody who can connect.
    public var metrics = false
    /// The line of its table, for messages.
    public var line = 0

    public init(_ place: Place, tls: TLS? = nil, metrics: Bool = false) {
      (self.place, self.tls, self.metrics) = (place, tls, metrics)
    }

    public enum Place: Sendable, Equatable {
      /// A numeric address; port 0 is any free one.
      case address(String, port: Int)
      case unix(path: String, mode: UInt32, group: String?)
      /// Sockets that systemd has opened, by their `FileDescriptorName`.
      case systemd(name: String)
    }

    public struct TLS: Sendable, Hashable {
      /// PEM files: the chain, the server's own certificate first, and its key.
      public var certificate: String
      public var key: String

      public init(certificate: String, key: String) { (self.certificate, self.key) = (certificate, key) }
    }
  }

  /// Which peers' words about their clients count.
  public struct Proxy: Sendable {
    public var trusted: [AddressRange] = []
    /// Whether whoever connects to a unix socket is a proxy.
    public var trustsUnix = false
    /// In lower case.
    public var userHeader: String?
    public var addressHeader: String?

    public init() {}
  }

  public struct LogOptions: Sendable {
    public var json = false
    public var level = Log.Level.info
    /// Whether each request is a line.
    public var access = true

    public init() {}
  }
}

/// What bounds clients of a network server. Times are in seconds.
public struct NetworkLimits: Sendable {
  /// Connections at a time; of all, and of one address (of IPv6, of one /64).
  public var connections = 1000
  public var connectionsPerAddress = 200
  /// For a whole head to arrive, and a TLS handshake.
  public var headTime = 20.0
  /// Without a byte of a body.
  public var bodyTime = 60.0
  /// Without a byte of an answer taken.
  public var answerTime = 120.0
  /// Between requests.
  public var keepAliveTime = 120.0
  /// For requests in flight, once the server is told to end.
  public var drainTime = 30.0
  /// Largest body of a request, bytes.
  public var body = Limits.chunkIndex
  /// Failed attempts after which an address, or a user from addresses that never succeeded, has to wait, and how long they
  /// count.
  public var failures = 10
  public var failureTime = 60.0

  /// Bytes of a request line, of a whole head; fields in it.
  static let requestLine = 16 * 1024
  static let head = 64 * 1024
  static let fields = 100
  /// Bytes of a request that are taken in at a time, and of an answer.
  static let block = 64 * 1024
  /// Bytes of an answer that may wait for its client.
  static let unsent = 256 * 1024

  public init() {}
}

extension Configuration {
  /// All patterns, with the table that they stand in.
  var patterns: [(table: String, pattern: RepositoryPattern)] {
    let named = users.sorted { $0.key < $1.key }.flatMap { user in
      user.value.repositories.map { ("user.\(user.key)", $0) }
    }
    return named + (anonymous?.repositories ?? []).map { ("anonymous", $0) }
  }

  /// The directories that users with a quota have for themselves, by name below the root, and their quotas; for a user
  /// of one repository it is that repository.
  public var userQuotas: [RepositoryName: UInt64] {
    var quotas: [RepositoryName: UInt64] = [:]
    for grant in users.values {
      guard let quota = grant.quota, let directory = grant.directory else { continue }
      quotas[directory] = min(quota, quotas[directory] ?? quota)
    }
    return quotas
  }

  /// How many bytes a repository may hold by itself.
  public func quota(of repository: RepositoryName) -> UInt64? {
    let isOneUsers = users.values.contains {
      $0.directory == repository && $0.repositories.map(\.name) == [repository]
    }
    return [repositoryQuotas[repository], isOneUsers ? userQuotas[repository] : nil].compactMap { $0 }.min()
  }

  /// The directories of users as far as they are none of repositories, with their quotas, if they have one.
  public var userDirectories: [RepositoryName: UInt64?] {
    var directories: [RepositoryName: UInt64?] = [:]
    for grant in users.values {
      guard let directory = grant.directory, grant.repositories.allSatisfy({ $0.name != directory }) else {
        continue
      }
      directories[directory] = .some(userQuotas[directory])
    }
    return directories
  }

  /// What the server would do, for `--check-config`.
  public func summary(users known: Set<String>) -> String {
    var lines = ["repositories below \(root)"]
    for listener in listeners {
      var line = "listen on \(listener.place)"
      if listener.tls != nil { line += " with TLS" }
      if listener.metrics { line += ", metrics for everybody who connects" }
      lines.append(line)
    }
    for (name, grant) in users.sorted(by: { $0.key < $1.key }) {
      let unknown = known.contains(name) ? "" : " (has no password)"
      lines.append("user \(name)\(unknown): \(grant)")
    }
    for name in known.subtracting(users.keys).sorted() {
      lines.append("user \(name): has a password and no table; nothing is granted")
    }
    lines.append("without a user: \(anonymous.map { "\($0)" } ?? "nothing")")
    for (name, quota) in repositoryQuotas.sorted(by: { $0.key < $1.key }) {
      lines.append("repository \(name): at most \(FileSize.text(Int(clamping: quota)))")
    }
    return lines.map { $0 + "\n" }.joined()
  }
}

extension Configuration.Grant {
  /// The components that all of the repositories begin with; nil if there are none.
  var directory: RepositoryName? {
    guard var common = repositories.first.map({ Array($0.components.prefix { $0 != nil }) }) else {
      return nil
    }
    for pattern in repositories.dropFirst() {
      let same = zip(common, pattern.components).prefix { $0 == $1 && $0 != nil }.count
      common = Array(common.prefix(same))
    }
    return common.isEmpty ? nil : RepositoryName(common.compactMap { $0 }.joined(separator: "/"))
  }
}

extension Configuration.Grant: CustomStringConvertible {
  public var description: String {
    var text = "\(permissions.rawValue) in \(repositories.map(\.description).joined(separator: ", "))"
    if repositories.isEmpty { text = "no repository" }
    if let quota { text += ", at most \(FileSize.text(Int(clamping: quota)))" }
    if metrics { text += ", metrics" }
    return text
  }
}

extension Configuration.Listener.Place: CustomStringConvertible {
  public var description: String {
    switch self {
    case .address(let address, let port):
      address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
    case .unix(let path, let mode, _): "\(path) (mode \(String(mode, radix: 8)))"
    case .systemd(let name): "the socket \(name) of systemd"
    }
  }
}
