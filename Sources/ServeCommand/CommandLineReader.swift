/// What a command line asks for, before the environment has a say.
enum CommandLineRequest {
  case help
  case version
  case serve(GivenOptions)
  /// Options only.
  case noCommand(GivenOptions)
  /// A first word other than `serve`, and all that follows it.
  case other(command: [UInt8], rest: ArraySlice<[UInt8]>)
}

/// Reads the words after the program's name: `[options] [serve [options]]`.
///
/// Common options stand before or after `serve`, in any order. There are no operands, and `--` is an error.
/// An option that may be given once may be given once at each level. Help and version take effect where
/// they stand, so an unknown option, which is reported at the end, does not keep anybody from the help.
///
/// Source: borg 2.0.0b18 `archiver/__init__.py` `CommonOptions`, Python 3.11 `argparse.py`; see
/// `OptionLookup`.
struct CommandLineReader {
  private let words: ArraySlice<[UInt8]>
  private var next: Int
  private var level = OptionLookup.Level.beforeCommand
  private var seenAtLevel: Set<Option> = []
  private var unrecognized: [[UInt8]] = []
  private var given = GivenOptions()

  static func read(_ words: ArraySlice<[UInt8]>) throws(UsageError) -> CommandLineRequest {
    var reader = CommandLineReader(words: words)
    return try reader.read()
  }

  private init(words: ArraySlice<[UInt8]>) {
    self.words = words
    self.next = words.startIndex
  }

  private mutating func read() throws(UsageError) -> CommandLineRequest {
    while next < words.endIndex {
      let word = words[next]
      if Self.endsOptions(word) {
        throw UsageError("unrecognized arguments: --")
      }
      let reading = try OptionLookup(level: level).read(word)
      next += 1
      switch reading {
      case .option(let definition, let attached, let short):
        if let request = try take(definition, attached, short: short) { return request }
      case .unknown:
        unrecognized.append(word)
      case .plain where level == .serve:
        unrecognized.append(word)
      case .plain where word.elementsEqual("serve".utf8):
        level = .serve
        seenAtLevel = []
      case .plain:
        try requireNothingUnrecognized()
        return .other(command: word, rest: words[next...])
      }
    }
    try requireNothingUnrecognized()
    return level == .serve ? .serve(given) : .noCommand(given)
  }

  /// Takes in an option, or several short ones written together (`-vp`, `-vr REPO`), and their operand.
  private mutating func take(
    _ first: OptionDefinition, _ attachedToFirst: [UInt8]?, short: Bool
  ) throws(UsageError) -> CommandLineRequest? {
    var cluster: [(definition: OptionDefinition, value: [UInt8]?)] = []
    var definition = first
    var attached = attachedToFirst
    while definition.operand == .none, let rest = attached {
      guard short, let letter = rest.first,
        let following = OptionLookup(level: level).definition(called: [UInt8(ascii: "-"), letter])
      else { throw .argument(definition, "ignored explicit argument \(quoted(rest))") }
      cluster.append((definition, nil))
      definition = following
      attached = rest.count > 1 ? Array(rest.dropFirst()) : nil
    }
    cluster.append((definition, try operand(of: definition, attached)))
    for (definition, value) in cluster {
      try given.apply(definition, value)
      if definition.onlyOnce, !seenAtLevel.insert(definition.option).inserted {
        throw .argument(definition, "There can be only one.")
      }
      if definition.option == .help { return .help }
      if definition.option == .version { return .version }
    }
    return nil
  }

  private mutating func operand(
    of definition: OptionDefinition, _ attached: [UInt8]?
  ) throws(UsageError) -> [UInt8]? {
    guard definition.operand != .none else { return nil }
    if let attached { return attached }
    if next < words.endIndex, !Self.endsOptions(words[next]),
      case .plain = try OptionLookup(level: level).read(words[next])
    {
      next += 1
      return words[next - 1]
    }
    guard definition.operand == .optional else { throw .argument(definition, "expected one argument") }
    return nil
  }

  private func requireNothingUnrecognized() throws(UsageError) {
    guard let first = unrecognized.first else { return }
    let more = unrecognized.count > 1 ? " and \(unrecognized.count - 1) more" : ""
    throw UsageError("unrecognized arguments: \(printable(first))\(more)")
  }

  private static func endsOptions(_ word: [UInt8]) -> Bool {
    word.elementsEqual("--".utf8)
  }
}
