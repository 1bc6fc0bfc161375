import BorgFormat
import ServeCommand

/// One line of `Recorded.swift`: what the original made of `borg ARGUMENTS`, with or without `SSH_ORIGINAL_COMMAND`.
struct RecordedCommandLine: Sendable {
  let arguments: [String]
  let original: String?
  let outcome: String

  /// The words, and the original command behind `<-`.
  var name: String {
    let words = arguments == forcedArguments ? "forced" : arguments.description
    return original.map { "\(words) <- \($0.debugDescription)" } ?? words
  }
}

/// A text and its words; nil: it has none, because it ends too early.
struct RecordedShellWords: Sendable {
  let text: String
  let words: [String]?
}

func parse(
  _ words: [String], as program: String = "borg", original: String? = nil, environment: [String: String] = [:]
) -> Invocation {
  parse(
    bytes: words.map { Array($0.utf8) }, as: program, original: original.map { Array($0.utf8) },
    environment: environment)
}

func parse(
  bytes: [[UInt8]], as program: String = "borg", original: [UInt8]? = nil, environment: [String: String] = [:]
) -> Invocation {
  Invocation.parse(arguments: [Array(program.utf8)] + bytes) { name in
    name == "SSH_ORIGINAL_COMMAND" ? original : environment[name].map { Array($0.utf8) }
  }
}

extension Invocation {
  var options: ServeOptions? {
    if case .serve(let options) = self { options } else { nil }
  }

  var error: String? {
    if case .usageError(let line) = self { line } else { nil }
  }
}

/// An invocation in the spelling of `scripts/record-command-line`.
func rendering(of invocation: Invocation) -> String {
  switch invocation {
  case .usageError: "usage"
  case .printed(let text): text.hasPrefix("borg-serve \(Version.number)") ? "version" : "help"
  case .serve(let options): rendering(of: options)
  }
}

private func rendering(of options: ServeOptions) -> String {
  let bracketed = { (paths: [[UInt8]]) in paths.map { "<\(String(decoding: $0, as: UTF8.self))>" }.joined() }
  let socket =
    switch options.socket {
    case nil: "none"
    case .defaultPath: "default"
    case .path(let path): bracketed([path])
    }
  var fields = [
    "serve", "level=\(options.logLevel.rawValue)",
    "topics=\(options.debugTopics.map { "<\($0)>" }.joined())", "lockWait=\(options.lockWait)",
    "umask=\(String(options.umask, radix: 8))", "socket=\(socket)",
    "paths=\(bracketed(options.restrictToPaths))",
    "repositories=\(bracketed(options.restrictToRepositories))",
    "permissions=\(options.permissions?.rawValue ?? "none")",
  ]
  if options.showVersion { fields.append("show_version") }
  if options.showRC { fields.append("show_rc") }
  if options.logJSON { fields.append("log_json") }
  return fields.joined(separator: " ")
}
