/// A command line cut into words by the shell's quoting rules; nothing is expanded, nothing is executed.
///
/// Words are separated by space, tab, line feed and carriage return. Single quotes keep everything up to
/// the next one. Between double quotes a backslash escapes only `"` and `\`; elsewhere it escapes any byte,
/// and a line feed after it stays in the word. `''` is an empty word. Comments, operators and globs have no
/// meaning. Bytes above 0x7f are ordinary. These are the rules of Python's `shlex.split` (posix, comments
/// off), with which the original reads `SSH_ORIGINAL_COMMAND`; they differ from a shell's in that ``\$``
/// and ``\` `` between double quotes keep the backslash.
enum ShellWords {
  enum Failure: Error {
    /// The text ends inside quotes.
    case unclosedQuote
    /// The text ends with a backslash that has nothing to escape.
    case danglingBackslash
  }

  static func split(_ text: some Sequence<UInt8>) throws(Failure) -> [[UInt8]] {
    var splitter = Splitter()
    for byte in text { splitter.read(byte) }
    return try splitter.finish()
  }
}

/// The state machine behind `ShellWords.split`; reads a byte at a time and never fails before the end.
private struct Splitter {
  private enum State {
    case plain
    case singleQuoted
    case doubleQuoted
    case escaped
    case escapedInDoubleQuotes
  }

  private var state = State.plain
  private var words: [[UInt8]] = []
  /// Nil between words; a pair of quotes begins a word even when nothing is in it.
  private var word: [UInt8]?

  mutating func read(_ byte: UInt8) {
    switch (state, byte) {
    case (.plain, UInt8(ascii: " ")), (.plain, UInt8(ascii: "\t")), (.plain, UInt8(ascii: "\n")),
      (.plain, UInt8(ascii: "\r")):
      endWord()
    case (.plain, UInt8(ascii: "'")): enterQuotes(.singleQuoted)
    case (.plain, UInt8(ascii: "\"")): enterQuotes(.doubleQuoted)
    case (.plain, UInt8(ascii: "\\")): state = .escaped
    case (.singleQuoted, UInt8(ascii: "'")), (.doubleQuoted, UInt8(ascii: "\"")): state = .plain
    case (.doubleQuoted, UInt8(ascii: "\\")): state = .escapedInDoubleQuotes
    case (.plain, _), (.singleQuoted, _), (.doubleQuoted, _): append(byte)
    case (.escaped, _):
      append(byte)
      state = .plain
    case (.escapedInDoubleQuotes, _):
      if byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\") { append(UInt8(ascii: "\\")) }
      append(byte)
      state = .doubleQuoted
    }
  }

  consuming func finish() throws(ShellWords.Failure) -> [[UInt8]] {
    switch state {
    case .plain:
      endWord()
      return words
    case .singleQuoted, .doubleQuoted: throw .unclosedQuote
    case .escaped, .escapedInDoubleQuotes: throw .danglingBackslash
    }
  }

  private mutating func enterQuotes(_ quotes: State) {
    word = word ?? []
    state = quotes
  }

  private mutating func append(_ byte: UInt8) {
    if word?.append(byte) == nil { word = [byte] }
  }

  private mutating func endWord() {
    if let word { words.append(word) }
    word = nil
  }
}
