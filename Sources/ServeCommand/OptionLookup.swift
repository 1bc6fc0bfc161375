/// Which option a word names at one level of the command line.
struct OptionLookup {
  enum Level {
    case beforeCommand, serve
  }

  enum Word {
    /// Not an option: a command, an operand, or a stray word.
    case plain
    /// An option, by whatever spelling; `attached` is what came after `=` or, for a short one, right behind
    /// it.
    case option(OptionDefinition, attached: [UInt8]?, short: Bool)
    /// Looks like an option and is none.
    case unknown
  }

  let level: Level

  /// Reads one word as Python's argparse does.
  ///
  /// Tried in this order: no leading `-`, or `-` alone: plain. A whole name. `NAME=VALUE`. An abbreviation
  /// of a long name. A short name with something behind it. Then a negative number or anything with a space
  /// is plain, so that `--lock-wait -1` works; the rest is unknown. The word `--` is the caller's.
  ///
  /// Throws when an abbreviation is ambiguous. Source: Python 3.11 `argparse.py`, `_parse_optional`.
  func read(_ word: [UInt8]) throws(UsageError) -> Word {
    let dash = UInt8(ascii: "-")
    guard word.first == dash, word.count > 1 else { return .plain }
    let isLong = word[1] == dash
    if let definition = definition(called: word) {
      return .option(definition, attached: nil, short: !isLong)
    }
    let equals = word.firstIndex(of: UInt8(ascii: "="))
    let name = word[..<(equals ?? word.endIndex)]
    let value = equals.map { Array(word[($0 + 1)...]) }
    if value != nil, let definition = definition(called: name) {
      return .option(definition, attached: value, short: !isLong)
    }
    if isLong {
      if let definition = try definition(abbreviatedTo: name) {
        return .option(definition, attached: value, short: false)
      }
    } else if let definition = definition(called: word[..<2]) {
      return .option(definition, attached: Array(word[2...]), short: true)
    }
    return Self.isNegativeNumber(word) || word.contains(UInt8(ascii: " ")) ? .plain : .unknown
  }

  /// The definition with exactly this name, dashes included.
  func definition(called name: some Collection<UInt8>) -> OptionDefinition? {
    OptionDefinition.table.first { isAdmitted($0) && $0.isCalled(name) }
  }

  private func isAdmitted(_ definition: OptionDefinition) -> Bool {
    level == .beforeCommand || definition.place != .beforeCommand
  }

  /// The option that a beginning of a long name stands for; nil if it begins none.
  ///
  /// An abbreviation is good if it is unambiguous in at least one Borg version, and means the same option
  /// in every version in which it is. So what worked keeps working, although the union has more options
  /// than any version: `--rem` is `--remote-path` (b18) in spite of 1.4's `--remote-buffer`, while `--b`
  /// (1.4's `--bypass-lock`, b22's `--backend`) is ambiguous. Before the command, options of serve count
  /// only if no other one begins so: there the original does not have them, and `borg --p serve` is
  /// `--progress`.
  private func definition(abbreviatedTo beginning: some Collection<UInt8>) throws(UsageError)
    -> OptionDefinition?
  {
    let matches = OptionDefinition.table.filter { definition in
      isAdmitted(definition) && definition.dialects != .none
        && definition.names.contains { $0.hasPrefix("--") && $0.utf8.starts(with: beginning) }
    }
    let own = level == .serve ? matches : matches.filter { $0.place != .serve }
    let candidates = own.isEmpty ? matches : own
    if candidates.isEmpty { return nil }
    var meaning: OptionDefinition?
    for dialect in Dialects.each {
      let known = candidates.filter { $0.dialects.contains(dialect) }
      guard known.count == 1 else { continue }
      guard meaning == nil || meaning?.option == known[0].option else {
        throw .ambiguous(beginning, candidates)
      }
      meaning = known[0]
    }
    guard let meaning else { throw .ambiguous(beginning, candidates) }
    return meaning
  }

  /// `-1`, `-2.5`, `-.5`.
  private static func isNegativeNumber(_ word: [UInt8]) -> Bool {
    let parts = word.dropFirst().split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    let areDigits = parts.allSatisfy {
      $0.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    }
    return areDigits && parts.count <= 2 && parts.last?.isEmpty == false
  }
}

/// A command line that cannot be used; the reason is one line without an end, safe to print.
struct UsageError: Error {
  let reason: String

  init(_ reason: String) {
    self.reason = reason
  }

  static func ambiguous(_ word: some Collection<UInt8>, _ options: [OptionDefinition]) -> Self {
    let names = options.map { $0.names[0] }.joined(separator: ", ")
    return Self("ambiguous option: \(printable(word)) could match \(names)")
  }

  static func argument(_ definition: OptionDefinition, _ problem: String) -> Self {
    Self("argument \(definition.names[0]): \(problem)")
  }
}
