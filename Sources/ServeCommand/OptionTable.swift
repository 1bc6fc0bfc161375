/// Every option of `borg serve` in any version whose clients or authorized_keys lines we may meet.
enum Option: Hashable, Sendable {
  case help, version
  case critical, error, warning, info, debug, debugTopic
  case progress, iec, logJSON, lockWait, bypassLock, showVersion, showRC, umask
  case remotePath, remoteRateLimit, uploadRateLimit, remoteBuffer, uploadBuffer, considerPartFiles
  case debugProfile, rsh, socket, repo, cockpit, config
  case restrictToPath, restrictToRepository, permissions, appendOnly, storageQuota, rest, backend
  case maxConnections, idleTimeout
}

/// Groups of Borg versions that have the same set of options.
struct Dialects: OptionSet, Sendable {
  let rawValue: UInt16

  static let v11 = Self(rawValue: 1 << 0)
  static let v12 = Self(rawValue: 1 << 1)  // 1.2 and 1.4
  static let b16 = Self(rawValue: 1 << 2)  // and b17
  static let b18 = Self(rawValue: 1 << 3)  // and b19
  static let b20 = Self(rawValue: 1 << 4)
  static let b21 = Self(rawValue: 1 << 5)
  static let b22 = Self(rawValue: 1 << 6)
  static let later = Self(rawValue: 1 << 7)
  /// Options of no Borg version: they are known by their whole names only, so that they disturb no abbreviation.
  static let none: Self = []

  static let borg1: Self = [.v11, .v12]
  static let each: [Self] = [.v11, .v12, .b16, .b18, .b20, .b21, .b22, .later]
  static let all = Self(each)
  static let untilB22 = Self.all.subtracting(.later)
  static let borg2 = Self.all.subtracting(.borg1)
}

/// What the parser knows about one option.
struct OptionDefinition: Sendable {
  enum Operand: Sendable {
    case none, required, optional
  }
  enum Place: Sendable {
    /// Before the command and after it.
    case common
    /// Before the command only.
    case beforeCommand
    /// The original: after `serve` only. Here also before it, or without the word.
    case serve
  }

  let option: Option
  /// The first one is how messages call it.
  let names: [String]
  var operand = Operand.none
  var place = Place.common
  var dialects = Dialects.all
  /// A second one at the same level is an error ("Highlander" in the original). Borg 1.x let the later one
  /// win.
  var onlyOnce = false
  /// A line for the log when the option was given, because the administrator may expect it to do something.
  var remark: String?

  func isCalled(_ name: some Collection<UInt8>) -> Bool {
    names.contains { name.elementsEqual($0.utf8) }
  }
}

extension OptionDefinition {
  /// The union of the grammars of Borg 1.1–1.4 and 2.0.0b16 and later.
  ///
  /// Source: `archiver.py` of 1.1, 1.2 and 1.4; `archiver/_common.py` `define_common_options` and
  /// `archiver/serve_cmd.py` of 2.0.0b16, b18, b20, b21, b22 and the branch after it.
  static let table: [OptionDefinition] = [
    .init(option: .help, names: ["--help", "-h"]),
    .init(option: .version, names: ["--version", "-V"], place: .beforeCommand),
    .init(option: .critical, names: ["--critical"]),
    .init(option: .error, names: ["--error"]),
    .init(option: .warning, names: ["--warning"]),
    .init(option: .info, names: ["--info", "--verbose", "-v"]),
    .init(option: .debug, names: ["--debug"]),
    .init(option: .debugTopic, names: ["--debug-topic"], operand: .required),
    .init(option: .progress, names: ["--progress", "-p"]),
    .init(option: .iec, names: ["--iec"], dialects: .untilB22.subtracting(.v11)),
    .init(option: .logJSON, names: ["--log-json"]),
    .init(option: .lockWait, names: ["--lock-wait"], operand: .required, onlyOnce: true),
    .init(option: .bypassLock, names: ["--bypass-lock"], dialects: .borg1),
    .init(option: .showVersion, names: ["--show-version"]),
    .init(option: .showRC, names: ["--show-rc"]),
    .init(option: .umask, names: ["--umask"], operand: .required, onlyOnce: true),
    .init(
      option: .remotePath, names: ["--remote-path"], operand: .required, dialects: .untilB22, onlyOnce: true),
    .init(option: .remoteRateLimit, names: ["--remote-ratelimit"], operand: .required, dialects: .borg1),
    .init(
      option: .uploadRateLimit, names: ["--upload-ratelimit"], operand: .required,
      dialects: .untilB22.subtracting(.v11), onlyOnce: true),
    .init(option: .remoteBuffer, names: ["--remote-buffer"], operand: .required, dialects: .v12),
    .init(
      option: .uploadBuffer, names: ["--upload-buffer"], operand: .required,
      dialects: .untilB22.subtracting(.v11), onlyOnce: true),
    .init(option: .considerPartFiles, names: ["--consider-part-files"], dialects: .borg1),
    .init(
      option: .debugProfile, names: ["--debug-profile"], operand: .required, dialects: .untilB22,
      onlyOnce: true,
      remark: "--debug-profile is ignored: there is no Python to profile"),
    .init(option: .rsh, names: ["--rsh"], operand: .required, dialects: .untilB22, onlyOnce: true),
    .init(
      option: .socket, names: ["--socket"], operand: .optional, dialects: [.b16, .b18, .b20, .b21],
      onlyOnce: true),
    .init(
      option: .repo, names: ["--repo", "-r"], operand: .required, dialects: .borg2, onlyOnce: true,
      remark: "--repo is ignored: the client says which repository it wants"),
    .init(
      option: .cockpit, names: ["--cockpit"], place: .beforeCommand, dialects: [.b20, .b21, .b22, .later],
      remark: "--cockpit is ignored: a server has no user interface"),
    .init(
      option: .config, names: ["--config"], operand: .required, place: .beforeCommand,
      dialects: [.b21, .b22, .later]),
    .init(option: .restrictToPath, names: ["--restrict-to-path"], operand: .required, place: .serve),
    .init(
      option: .restrictToRepository, names: ["--restrict-to-repository"], operand: .required, place: .serve),
    .init(
      option: .permissions, names: ["--permissions"], operand: .required, place: .serve,
      dialects: [.b18, .b20, .b21, .b22, .later]),
    .init(option: .appendOnly, names: ["--append-only"], place: .serve, dialects: .borg1),
    .init(
      option: .storageQuota, names: ["--storage-quota"], operand: .required, place: .serve, dialects: .borg1),
    .init(option: .rest, names: ["--rest"], place: .serve, dialects: [.b22, .later]),
    .init(
      option: .backend, names: ["--backend"], operand: .required, place: .serve, dialects: [.b22, .later]),
    .init(
      option: .maxConnections, names: ["--max-connections"], operand: .required, place: .serve,
      dialects: .none,
      onlyOnce: true),
    .init(
      option: .idleTimeout, names: ["--idle-timeout"], operand: .required, place: .serve, dialects: .none,
      onlyOnce: true),
  ]
}
