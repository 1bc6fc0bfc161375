import BorgFormat

extension Configuration {
  /// All that is wrong with a file.
  public struct Invalid: Error, Sendable, CustomStringConvertible {
    public let problems: [ConfigurationProblem]

    public var description: String { problems.map(\.description).joined(separator: "\n") }
  }

  /// What a command line says instead of the file, or without one.
  public struct Flags: Sendable, Hashable {
    public var root: String?
    public var credentials: String?
    /// Listened on beside what the file says.
    public var addresses: [String] = []
    public var sockets: [String] = []

    public init() {}
  }

  /// Reads a configuration. Throws all that is wrong with it, not only the first.
  public init(parsing text: String, flags: Flags = Flags()) throws(Invalid) {
    self.init()
    var reader: ConfigurationReader
    do throws(ConfigurationProblem) {
      reader = ConfigurationReader(try ConfigurationText(text))
    } catch {
      throw Invalid(problems: [error])
    }
    for table in reader.tables { read(table, &reader) }
    apply(flags, &reader)
    check(&reader)
    guard reader.problems.isEmpty else {
      throw Invalid(problems: reader.problems.sorted { ($0.line ?? .max) < ($1.line ?? .max) })
    }
  }

  private mutating func read(_ table: ConfigurationText.Table, _ reader: inout ConfigurationReader) {
    reader.begin(table)
    switch (table.name.first, table.name.count, table.isElement) {
    case (nil, _, _): readMain(&reader)
    case ("listener", 1, true): readListener(table, &reader)
    case ("limits", 1, false): readLimits(&reader)
    case ("log", 1, false): readLog(&reader)
    case ("proxy", 1, false): readProxy(&reader)
    case ("anonymous", 1, false): anonymous = readGrant(&reader)
    case ("user", 2, false):
      let name = table.name[1]
      if name.isEmpty || name.contains(":") || name.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) {
        reader.complain("a user's name is not empty, without colons and control characters")
      }
      users[name] = readGrant(&reader)
    case ("repository", 2, false):
      if let quota = reader.size("quota") {
        if let name = RepositoryName(table.name[1]) {
          repositoryQuotas[name] = quota
        } else {
          reader.complain("is no name of a repository: \(table.name[1].shortened)")
        }
      }
    default:
      reader.complain(
        "there is no such table; there are [[listener]], [limits], [log], [proxy], [anonymous], [user.NAME] and "
          + "[repository.\"NAME\"]")
      return
    }
    reader.endTable()
  }

  private mutating func readMain(_ reader: inout ConfigurationReader) {
    if let root = reader.path("root") { self.root = root }
    credentials = reader.path("credentials")
    allowsPlaintext = reader.boolean("allow-plaintext") ?? false
    confines = reader.boolean("confine") ?? true
    if let umask = reader.octal("umask") { self.umask = umask }
    threads = reader.integer("threads", in: 1...1024)
    if let seconds = reader.seconds("repository-metrics-interval") {
      repositoryMetricsInterval = Int(seconds)
    }
  }

  private mutating func readListener(_ table: ConfigurationText.Table, _ reader: inout ConfigurationReader) {
    var places: [Listener.Place] = []
    if let text = reader.string("address") {
      if let (address, port) = Self.address(text) {
        places.append(.address(address, port: port))
      } else {
        reader.complain(
          "address", "is not of the form \"127.0.0.1:8000\" or \"[::1]:8000\": \(text.shortened)")
        places.append(.address("", port: 0))
      }
    }
    if let path = reader.path("socket") {
      places.append(.unix(path: path, mode: reader.octal("mode") ?? 0o660, group: reader.string("group")))
    }
    if let name = reader.string("systemd") { places.append(.systemd(name: name)) }
    let certificate = reader.path("tls-certificate")
    let key = reader.path("tls-key")
    let metrics = reader.boolean("metrics") ?? false
    guard let place = places.first, places.count == 1 else {
      reader.complain("a listener has one of address, socket and systemd")
      return
    }
    var listener = Listener(place, metrics: metrics)
    listener.line = table.line
    if (certificate == nil) != (key == nil) {
      reader.complain("tls-certificate and tls-key belong together")
    } else if let certificate, let key {
      listener.tls = Listener.TLS(certificate: certificate, key: key)
    }
    listeners.append(listener)
  }

  /// Reads `HOST:PORT`, the host numeric and, of version 6, in brackets.
  static func address(_ text: String) -> (address: String, port: Int)? {
    guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
      (0...65535).contains(port)
    else { return nil }
    var host = text[..<colon]
    let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
    if isBracketed { host = host.dropFirst().dropLast() }
    guard NetworkAddress(String(host)) != nil, host.contains(":") == isBracketed else { return nil }
    return (String(host), port)
  }

  private mutating func readLimits(_ reader: inout ConfigurationReader) {
    if let value = reader.integer("connections", in: 1...1_000_000) { limits.connections = value }
    if let value = reader.integer("connections-per-address", in: 1...1_000_000) {
      limits.connectionsPerAddress = value
    }
    if let value = reader.seconds("head-time", atLeast: 0.05) { limits.headTime = value }
    if let value = reader.seconds("body-time", atLeast: 0.05) { limits.bodyTime = value }
    if let value = reader.seconds("answer-time", atLeast: 0.05) { limits.answerTime = value }
    if let value = reader.seconds("keep-alive-time", atLeast: 0.05) { limits.keepAliveTime = value }
    if let value = reader.seconds("drain-time") { limits.drainTime = value }
    if let value = reader.size("body") { limits.body = Int(clamping: value) }
    if let value = reader.integer("failures", in: 1...1_000_000) { limits.failures = value }
    if let value = reader.seconds("failure-time", atLeast: 0.05) { limits.failureTime = value }
  }

  private mutating func readLog(_ reader: inout ConfigurationReader) {
    if let format = reader.word("format", of: ["text", "json"]) { log.json = format == "json" }
    if let level = reader.word("level", of: Log.Level.allCases.map(\.rawValue)) {
      log.level = Log.Level(rawValue: level) ?? .info
    }
    log.access = reader.boolean("access") ?? true
  }

  private mutating func readProxy(_ reader: inout ConfigurationReader) {
    for text in reader.strings("trusted") ?? [] {
      if text == "unix" {
        proxy.trustsUnix = true
      } else if let range = AddressRange(text) {
        proxy.trusted.append(range)
      } else {
        reader.complain(
          "trusted", "is neither an address, a range such as 10.0.0.0/8, nor unix: \(text.shortened)")
      }
    }
    proxy.userHeader = reader.string("user-header")?.lowercased()
    proxy.addressHeader = reader.string("address-header")?.lowercased()
    if proxy.trusted.isEmpty && !proxy.trustsUnix && (proxy.userHeader ?? proxy.addressHeader) != nil {
      reader.complain("trusted is missing: whose headers are to be believed")
    }
    for (key, name) in [("user-header", proxy.userHeader), ("address-header", proxy.addressHeader)] {
      guard let name else { continue }
      let isTaken = ["authorization", "accept", "host", "content-length", "connection", "range"].contains(
        name)
      if isTaken || name.isEmpty || !name.utf8.allSatisfy(RequestParser.isTokenByte) {
        reader.complain(key, "is no header that a proxy could set for this: \(name.shortened)")
      }
    }
  }

  private func readGrant(_ reader: inout ConfigurationReader) -> Grant {
    var grant = Grant(repositories: [])
    for text in reader.strings("repositories") ?? [] {
      if let pattern = RepositoryPattern(text) {
        if let first = pattern.components.first, let first, Self.reserved.contains(first) {
          reader.complain("repositories", "begins with the reserved name \(first)")
        }
        grant.repositories.append(pattern)
      } else {
        reader.complain(
          "repositories",
          "is no repository: \(text.shortened) (components of A-Z a-z 0-9 . _ -, not beginning with a dot; a whole "
            + "component may be *)")
      }
    }
    if let mode = reader.word("permissions", of: Permissions.allCases.map(\.rawValue)) {
      grant.permissions = Permissions(rawValue: mode) ?? .readOnly
    }
    grant.quota = reader.size("quota")
    grant.metrics = reader.boolean("metrics") ?? false
    return grant
  }

  /// First components of paths that are no repository's.
  static let reserved: Set<String> = ["metrics", "healthz"]

  // MARK: What no table shows by itself

  private mutating func apply(_ flags: Flags, _ reader: inout ConfigurationReader) {
    if let root = flags.root { self.root = root }
    if let credentials = flags.credentials { self.credentials = credentials }
    for path in [flags.root, flags.credentials].compactMap({ $0 }) + flags.sockets where !path.hasPrefix("/")
    {
      reader.complain(nil, "has to be an absolute path: \(path.shortened)")
    }
    for text in flags.addresses {
      if let (address, port) = Self.address(text) {
        listeners.append(Listener(.address(address, port: port)))
      } else {
        reader.complain(nil, "--address is not of the form 127.0.0.1:8000 or [::1]:8000: \(text.shortened)")
      }
    }
    listeners += flags.sockets.map { Listener(.unix(path: $0, mode: 0o660, group: nil)) }
  }

  private mutating func check(_ reader: inout ConfigurationReader) {
    if root.isEmpty { reader.complain(nil, "root is missing: the directory in which repositories are") }
    if listeners.isEmpty { reader.complain(nil, "there is no [[listener]]") }
    if credentials == nil, proxy.userHeader == nil, !users.isEmpty {
      reader.complain(nil, "there are users, and no credentials file with their passwords")
    } else if credentials == nil, anonymous == nil, proxy.userHeader == nil {
      // Nobody can have a name: whoever may connect is trusted with everything directly below the root.
      anonymous = Grant(repositories: [RepositoryPattern("*")].compactMap { $0 })
    }
    for listener in listeners { checkReach(of: listener, &reader) }
    let all = patterns
    for (number, one) in all.enumerated() {
      for other in all[..<number] where one.pattern.overlaps(other.pattern) {
        reader.complain(
          nil,
          "\(one.table).repositories: \(one.pattern) and \(other.pattern) of \(other.table) overlap: one repository would "
            + "lie inside another")
      }
    }
    for (name, grant) in users.sorted(by: { $0.key < $1.key })
    where grant.quota != nil && grant.directory == nil {
      reader.complain(
        nil,
        "user.\(name).quota: needs repositories below one directory, such as \"\(RepositoryName(name)?.text ?? "alice")/*\""
      )
    }
    if anonymous?.quota != nil {
      reader.complain(nil, "anonymous.quota: there are quotas for users and repositories only")
    }
    for name in repositoryQuotas.keys.sorted() where !all.contains(where: { $0.pattern.matches(name) }) {
      reader.complain(nil, "repository.\"\(name)\": nobody is granted this repository")
    }
  }

  /// Fails closed: what can be reached from elsewhere needs passwords, and passwords need TLS.
  private func checkReach(of listener: Listener, _ reader: inout ConfigurationReader) {
    guard case .address(let text, let port) = listener.place, let address = NetworkAddress(text),
      !address.isLoopback
    else { return }
    let problem: String? =
      if credentials == nil && proxy.userHeader == nil {
        "reaches beyond this machine, and there is no credentials file: without one only loopback addresses and unix "
          + "sockets are listened on"
      } else if listener.tls == nil && !allowsPlaintext {
        "reaches beyond this machine without TLS, so passwords could be read on the way; see tls-certificate, or "
          + "allow-plaintext = true where something else protects them"
      } else {
        nil
      }
    if let problem {
      reader.add(
        ConfigurationProblem(
          line: listener.line == 0 ? nil : listener.line, key: "listener \(text):\(port)", problem))
    }
  }
}

/// Takes values out of tables by their types and notes what is wrong.
struct ConfigurationReader {
  let tables: [ConfigurationText.Table]
  private(set) var problems: [ConfigurationProblem] = []
  private var table: ConfigurationText.Table
  private var asked: [String] = []

  init(_ text: ConfigurationText) {
    tables = text.tables
    table = tables[0]
  }

  mutating func begin(_ table: ConfigurationText.Table) { (self.table, asked) = (table, []) }

  /// Notes the keys that nobody has asked for.
  mutating func endTable() {
    for entry in table.entries where !asked.contains(entry.key) {
      complain(entry.key, "there is no such key; there are \(asked.sorted().joined(separator: ", "))")
    }
  }

  mutating func add(_ problem: ConfigurationProblem) { problems.append(problem) }

  /// Notes something about the table as a whole.
  mutating func complain(_ message: String) {
    add(ConfigurationProblem(line: table.line, key: table.name.joined(separator: "."), message))
  }

  mutating func complain(_ key: String?, _ message: String) {
    let entry = table.entries.first { $0.key == key }
    let path = key.map { (table.name + [$0]).joined(separator: ".") }
    add(ConfigurationProblem(line: entry?.line, key: path, message))
  }

  private mutating func value<Result>(
    _ key: String, _ what: String, _ convert: (ConfigurationText.Value) -> Result?
  ) -> Result? {
    asked.append(key)
    guard let entry = table.entries.first(where: { $0.key == key }) else { return nil }
    if let result = convert(entry.value) { return result }
    complain(key, "has to be \(what)")
    return nil
  }

  mutating func string(_ key: String) -> String? {
    value(key, "a text in quotes, not empty") {
      if case .string(let text) = $0, !text.isEmpty { text } else { nil }
    }
  }

  /// An absolute path.
  mutating func path(_ key: String) -> String? {
    value(key, "an absolute path in quotes") { value in
      if case .string(let text) = value, text.hasPrefix("/"), !text.utf8.contains(0) { text } else { nil }
    }
  }

  mutating func strings(_ key: String) -> [String]? {
    value(key, "a list of texts in quotes") { value in
      guard case .array(let values) = value else { return nil }
      let texts = values.compactMap { if case .string(let text) = $0 { text } else { nil as String? } }
      return texts.count == values.count ? texts : nil
    }
  }

  mutating func boolean(_ key: String) -> Bool? {
    value(key, "true or false") { if case .boolean(let value) = $0 { value } else { nil } }
  }

  mutating func integer(_ key: String, in range: ClosedRange<Int>) -> Int? {
    value(key, "a number from \(range.lowerBound) to \(range.upperBound)") { value in
      if case .integer(let number) = value, range.contains(number) { number } else { nil }
    }
  }

  mutating func word(_ key: String, of words: [String]) -> String? {
    value(key, "one of \(words.map { "\"\($0)\"" }.joined(separator: ", "))") { value in
      if case .string(let word) = value, words.contains(word) { word } else { nil }
    }
  }

  /// A file mode.
  mutating func octal(_ key: String) -> UInt32? {
    value(key, "octal digits in quotes, such as \"660\"") { value in
      guard case .string(let text) = value, let mode = UInt32(text, radix: 8), mode <= 0o777 else {
        return nil
      }
      return mode
    }
  }

  /// A time: a number of seconds, or a text such as "90s", "15m", "2h", "250ms".
  mutating func seconds(_ key: String, atLeast minimum: Double = 0) -> Double? {
    value(key, "a number of seconds, or a text such as \"30s\" or \"15m\", at least \(minimum) s") { value in
      let seconds: Double? =
        switch value {
        case .integer(let number): Double(number)
        case .string(let text): Self.seconds(text)
        default: nil
        }
      return seconds.flatMap { (minimum...1e8).contains($0) ? $0 : nil }
    }
  }

  private static func seconds(_ text: String) -> Double? {
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    guard let number = Double(digits) else { return nil }
    let units = ["ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400]
    return units[String(text.dropFirst(digits.count))].map { number * $0 }
  }

  /// Bytes: a number, or a text with a unit of powers of 1000, as Borg's are: "500G", "1.5T".
  mutating func size(_ key: String) -> UInt64? {
    value(key, "a number of bytes, or a text such as \"500G\" (powers of 1000)") { value in
      switch value {
      case .integer(let number): UInt64(exactly: number)
      case .string(let text): Self.size(text)
      default: nil
      }
    }
  }

  private static func size(_ text: String) -> UInt64? {
    let digits = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
    guard let number = Double(digits), number >= 0 else { return nil }
    let units = ["": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15]
    guard let unit = units[text.dropFirst(digits.count).uppercased()] else { return nil }
    return UInt64(exactly: (number * unit).rounded())
  }
}
