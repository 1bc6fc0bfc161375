/// What a client asked sshd to run where a forced command runs instead: the value of `SSH_ORIGINAL_COMMAND`.
///
/// Written by whoever holds the key, so hostile until read. Source: borg 2.0.0b18 `archiver/__init__.py`
/// `get_args`, and b22's, which adds the backend.
struct OriginalCommand {
  /// Bytes of the longest value that is read. Borg's own are below 1 KiB.
  static let sizeLimit = 64 * 1024

  /// The client's `borg serve` options; nil if it asked for another borg command.
  private let given: GivenOptions?

  /// Cuts the value into words, drops leading words with a `=` in them (environment assignments, never
  /// interpreted) and one more (the program, whatever its name), and reads the rest as a borg command line.
  ///
  /// Throws for everything that is no borg command line: nothing at all, no command, an unknown command, a
  /// usage error, open quotes; also where the client asks for help or the version, which the original
  /// prints into the middle of the protocol. The options of commands other than serve are not checked.
  init(parsing text: [UInt8]) throws(UsageError) {
    guard text.count <= Self.sizeLimit else {
      throw Self.refusal(text, "longer than \(Self.sizeLimit) bytes")
    }
    let words: [[UInt8]]
    do throws(ShellWords.Failure) {
      words = try ShellWords.split(text)
    } catch {
      switch error {
      case .unclosedQuote: throw Self.refusal(text, "a quote is not closed")
      case .danglingBackslash: throw Self.refusal(text, "nothing follows the last backslash")
      }
    }
    let command = words.drop { $0.contains(UInt8(ascii: "=")) }
    guard !command.isEmpty else {
      throw UsageError("this key runs borg serve only; no command was asked for")
    }
    let request: CommandLineRequest
    do throws(UsageError) {
      request = try CommandLineReader.read(command.dropFirst())
    } catch {
      throw Self.refusal(text, error.reason)
    }
    switch request {
    case .serve(let given): self.given = given
    case .other(let command, let rest) where Self.isBorgCommand(command) && !Self.asksForHelp(rest):
      self.given = nil
    case .other(let command, _) where !Self.isBorgCommand(command):
      throw Self.refusal(text, "\(quoted(command)) is not a borg command")
    case .other, .help: throw Self.refusal(text, "no help here")
    case .version: throw Self.refusal(text, "no version here")
    case .noCommand: throw Self.refusal(text, "no borg command in it")
    }
  }

  /// The forced command's options as the client may change them.
  ///
  /// If the client asked for serve, its log level, debug topics and lock wait replace the forced ones
  /// *always*, with the defaults where it gave none. If the forced command has `--rest` and names no
  /// backend, the client's backend is taken over. Nothing else is: no permission, restriction, quota,
  /// socket or mask. If it asked for another borg command, the forced options stay as they are.
  func applied(
    to forced: ServeOptions, environment: (String) -> [UInt8]?
  ) throws(UsageError) -> ServeOptions {
    guard let given else { return forced }
    var options = forced
    options.logLevel = given.logLevel ?? .warning
    options.debugTopics = given.debugTopics
    options.lockWait = try given.effectiveLockWait(environment: environment)
    if forced.rest {
      options.backend = forced.backend ?? given.backend
    } else if given.present.contains(.rest) {
      options.warnings.append(
        "the client asked for --rest, which the forced command of its key does not have")
    }
    return options
  }

  private static func refusal(_ text: [UInt8], _ reason: String) -> UsageError {
    UsageError("this key runs borg serve only; refused \(quoted(text)): \(reason)")
  }

  private static func asksForHelp(_ words: ArraySlice<[UInt8]>) -> Bool {
    words.contains { $0.elementsEqual("--help".utf8) || $0.elementsEqual("-h".utf8) }
  }

  private static func isBorgCommand(_ word: [UInt8]) -> Bool {
    otherCommands.contains { word.elementsEqual($0.utf8) }
  }

  /// Top-level commands of Borg 1.1–1.4 and 2.0.0b16 and later, without serve.
  private static let otherCommands = [
    "analyze", "benchmark", "break-lock", "change-passphrase", "check", "compact", "completion", "config",
    "create",
    "debug", "delete", "diff", "export-tar", "extract", "find", "help", "import-tar", "info", "init", "key",
    "list",
    "mount", "prune", "recreate", "rename", "repo-compress", "repo-create", "repo-delete", "repo-info",
    "repo-list",
    "repo-space", "tag", "transfer", "umount", "undelete", "upgrade", "version", "webdav", "with-lock",
  ]
}
