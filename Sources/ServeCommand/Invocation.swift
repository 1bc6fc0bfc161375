/// What a start of the program comes to, decided without touching anything outside the arguments of `parse`.
public enum Invocation: Hashable, Sendable {
  /// Serve. Whether standard input is a terminal, on which nobody speaks the protocol, is for the caller to
  /// check.
  case serve(ServeOptions)
  /// Read a public key, print its line for `authorized_keys`, and exit.
  case authorize(AuthorizeOptions)
  /// Text for standard output, line ends included; then exit with `ExitCode.success`.
  case printed(String)
  /// One line for standard error, its end included; nothing on standard output; exit with `ExitCode.failure`.
  case usageError(String)

  /// Reads a command line in the union of the grammars of Borg 1.1–1.4 and 2.0.0b16 and later.
  ///
  /// `arguments` are the program's, its own name first. `environment` is asked for `SSH_ORIGINAL_COMMAND`,
  /// `BORG_LOCK_WAIT` and `BORG_SERVE__…`; nil means unset. `BORG_REPO` is never looked at.
  ///
  /// `[options] serve [options]` serves, and so does the same without the word. Called `borg`, a command
  /// line without the word and without any option of serve prints the help, as the original does. Where
  /// `SSH_ORIGINAL_COMMAND` is set, what the client asked for is read too (`OriginalCommand`), and help is
  /// printed only if the program's own command line asks for it.
  ///
  /// `authorize [options] KEYFILE` is this program's own. It is a command only as the first of the program's
  /// own words, and `SSH_ORIGINAL_COMMAND` is not looked at then; in a client's command it is refused, as is
  /// everything but borg's commands.
  public static func parse(arguments: [[UInt8]], environment: (String) -> [UInt8]?) -> Invocation {
    do throws(UsageError) {
      if arguments.dropFirst().first?.elementsEqual("authorize".utf8) == true {
        switch try AuthorizeReader.read(arguments.dropFirst(2)) {
        case .help: return .printed(Help.authorize)
        case .line(let options): return .authorize(options)
        }
      }
      switch try CommandLineReader.read(arguments.dropFirst()) {
      case .help: return .printed(Help.text)
      case .version: return .printed(Version.line + "\n")
      case .other(let command, _) where command.elementsEqual("authorize".utf8):
        throw UsageError("authorize has to be the first word, before all options")
      case .other(let command, _): throw UsageError("unknown command \(quoted(command)): there is only serve")
      case .serve(let given): return .serve(try serving(given, environment))
      case .noCommand(let given):
        if isCalledBorg(arguments.first), !given.hasServeOptions {
          return try withoutCommand(given, environment)
        }
        try requireSocketNotServe(given)
        return .serve(try serving(given, environment))
      }
    } catch {
      return .usageError("borg-serve: error: \(error.reason)\n")
    }
  }

  private static func serving(
    _ given: GivenOptions, _ environment: (String) -> [UInt8]?
  ) throws(UsageError) -> ServeOptions {
    let options = try given.options(environment: environment)
    guard let original = environment("SSH_ORIGINAL_COMMAND") else { return options }
    return try OriginalCommand(parsing: original).applied(to: options, environment: environment)
  }

  private static func withoutCommand(
    _ given: GivenOptions, _ environment: (String) -> [UInt8]?
  ) throws(UsageError) -> Invocation {
    guard environment("SSH_ORIGINAL_COMMAND") == nil else {
      throw UsageError("the forced command of this key lacks a command: it has to be borg serve")
    }
    try requireSocketNotServe(given)
    return .printed(Help.text)
  }

  /// `--socket` takes the next word, so `--socket serve` names a path and no command: surely not what was
  /// meant.
  private static func requireSocketNotServe(_ given: GivenOptions) throws(UsageError) {
    guard case .path(let path) = given.socket, path.elementsEqual("serve".utf8) else { return }
    throw UsageError("argument --socket: took the word serve for its path; write serve --socket")
  }

  private static func isCalledBorg(_ name: [UInt8]?) -> Bool {
    guard let name else { return false }
    let base = name[((name.lastIndex(of: UInt8(ascii: "/")) ?? -1) + 1)...]
    return base.elementsEqual("borg".utf8)
  }
}
