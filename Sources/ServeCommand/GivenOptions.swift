import BorgFormat

/// What stood on one command line, before defaults.
///
/// Values given after the command replace those before it; debug topics and restrictions add up. That is what
/// applying options in order does, so there is one set for both levels.
struct GivenOptions {
  /// Every option that was given, also those without a value worth keeping.
  var present: Set<Option> = []
  var logLevel: ServeOptions.LogLevel?
  var debugTopics: [String] = []
  var lockWait: Int?
  var umask: UInt32?
  var socket: ServeOptions.Socket?
  var restrictToPaths: [[UInt8]] = []
  var restrictToRepositories: [[UInt8]] = []
  var permissions: Permissions?
  var storageQuota: UInt64?
  var backend: [UInt8]?
  var maxConnections: Int?
  var idleTimeout: Int?

  /// Whether an option was given that the original has only after the word `serve`.
  var hasServeOptions: Bool {
    OptionDefinition.table.contains { $0.place == .serve && present.contains($0.option) }
  }

  /// Takes in one option; throws when its value is not one.
  ///
  /// `value` is nil for options without operand, and for an optional operand that was left out. Help and
  /// version are the parser's, and only noted here.
  mutating func apply(_ definition: OptionDefinition, _ value: [UInt8]?) throws(UsageError) {
    let text = value ?? []
    switch definition.option {
    case .critical: logLevel = .critical
    case .error: logLevel = .error
    case .warning: logLevel = .warning
    case .info: logLevel = .info
    case .debug: logLevel = .debug
    case .debugTopic: debugTopics.append(Self.loggerName(text))
    case .lockWait: lockWait = try Self.integer(text, definition)
    case .umask:
      guard let mask = OptionValues.umask(text) else {
        throw .argument(definition, "invalid mask: \(quoted(text))")
      }
      umask = mask
    case .socket:
      if value?.isEmpty == true { throw .argument(definition, "the path is empty") }
      socket = value.map { .path($0) } ?? .defaultPath
    case .restrictToPath: restrictToPaths.append(text)
    case .restrictToRepository: restrictToRepositories.append(text)
    case .permissions: permissions = try Self.permissions(text, called: "argument \(definition.names[0])")
    case .storageQuota: storageQuota = try Self.storageQuota(text, definition)
    case .backend: backend = text
    case .maxConnections: maxConnections = try Self.integer(text, definition, in: 1...10_000)
    case .idleTimeout: idleTimeout = try Self.integer(text, definition, in: 0...1_000_000_000)
    case .remoteRateLimit, .uploadRateLimit, .remoteBuffer, .uploadBuffer:
      _ = try Self.integer(text, definition)
    case .config:
      throw .argument(definition, "configuration files are not read; give the options on the command line")
    case .help, .version, .progress, .iec, .logJSON, .bypassLock, .showVersion, .showRC, .remotePath,
      .considerPartFiles, .debugProfile, .rsh, .repo, .cockpit, .appendOnly, .rest:
      break
    }
    present.insert(definition.option)
  }

  /// `borg.debug.TOPIC`, or the word itself if it has a dot.
  private static func loggerName(_ topic: [UInt8]) -> String {
    let name = String(decoding: topic, as: UTF8.self)
    return topic.contains(UInt8(ascii: ".")) ? name : "borg.debug." + name
  }

  private static func integer(_ text: [UInt8], _ definition: OptionDefinition) throws(UsageError) -> Int {
    guard let number = OptionValues.integer(text) else {
      throw .argument(definition, "invalid int value: \(quoted(text))")
    }
    return number
  }

  private static func integer(
    _ text: [UInt8], _ definition: OptionDefinition, in range: ClosedRange<Int>
  ) throws(UsageError) -> Int {
    let number = try integer(text, definition)
    guard range.contains(number) else {
      throw .argument(definition, "not from \(range.lowerBound) to \(range.upperBound): \(quoted(text))")
    }
    return number
  }

  private static func storageQuota(
    _ text: [UInt8], _ definition: OptionDefinition
  ) throws(UsageError) -> UInt64 {
    do throws(OptionValues.QuotaFailure) {
      return try OptionValues.storageQuota(text)
    } catch {
      switch error {
      case .notASize: throw .argument(definition, "not a size such as 5G or 1.5T: \(quoted(text))")
      case .tooSmall: throw .argument(definition, "too small: \(quoted(text)), at least 10M are required")
      }
    }
  }

  private static func permissions(_ text: [UInt8], called name: String) throws(UsageError) -> Permissions {
    guard let permissions = Permissions(word: text) else {
      let choices = Permissions.allCases.map(\.rawValue).joined(separator: ", ")
      throw UsageError("\(name): invalid choice: \(quoted(text)) (choose from \(choices))")
    }
    return permissions
  }
}

extension GivenOptions {
  /// The options with their defaults, which come from the environment where the original has them from there.
  ///
  /// `BORG_LOCK_WAIT`: an integer, else startup fails, also when `--lock-wait` was given.
  /// `BORG_SERVE__PERMISSIONS` (b21 and later): as `--permissions`, which wins. b21's lists
  /// `BORG_SERVE__RESTRICT_TO_PATHS` and `BORG_SERVE__RESTRICT_TO_REPOSITORIES` are not understood here;
  /// where one holds anything, startup fails rather than grant more than the administrator wrote.
  func options(environment: (String) -> [UInt8]?) throws(UsageError) -> ServeOptions {
    // Borg 1.x: "Not allowed to bypass locking mechanism for chosen command".
    if present.contains(.bypassLock) { throw UsageError("argument --bypass-lock: not allowed with serve") }
    for variable in ["BORG_SERVE__RESTRICT_TO_PATHS", "BORG_SERVE__RESTRICT_TO_REPOSITORIES"] {
      guard let value = environment(variable),
        !["", "[]", "null"].contains(String(decoding: value, as: UTF8.self))
      else { continue }
      throw UsageError("\(variable) is not supported; give the restriction on the command line")
    }
    var options = ServeOptions()
    options.logLevel = logLevel ?? .warning
    options.debugTopics = debugTopics
    options.lockWait = try effectiveLockWait(environment: environment)
    options.umask = umask ?? 0o077
    options.socket = socket
    options.restrictToPaths = restrictToPaths
    options.restrictToRepositories = restrictToRepositories
    options.permissions = permissions
    let variable = "BORG_SERVE__PERMISSIONS"
    if permissions == nil, let value = environment(variable) {
      options.permissions = try Self.permissions(value, called: variable)
    }
    options.appendOnly = present.contains(.appendOnly)
    options.storageQuota = storageQuota
    options.rest = present.contains(.rest)
    options.backend = backend
    options.maxConnections = maxConnections
    options.idleTimeout = idleTimeout ?? 0
    options.showVersion = present.contains(.showVersion)
    options.showRC = present.contains(.showRC)
    options.logJSON = present.contains(.logJSON)
    options.warnings = OptionDefinition.table.compactMap { present.contains($0.option) ? $0.remark : nil }
    if maxConnections != nil, socket == nil {
      options.warnings.append("--max-connections does nothing without --socket")
    }
    return options
  }

  /// Seconds: the option, else the variable, else 10.
  func effectiveLockWait(environment: (String) -> [UInt8]?) throws(UsageError) -> Int {
    guard let value = environment("BORG_LOCK_WAIT") else { return lockWait ?? ServeOptions().lockWait }
    guard let preset = OptionValues.integer(value) else {
      throw UsageError("BORG_LOCK_WAIT: invalid int value: \(quoted(value))")
    }
    return lockWait ?? preset
  }
}
