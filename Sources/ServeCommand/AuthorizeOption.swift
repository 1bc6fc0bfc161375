import BorgFormat

/// Every option of `borg-serve authorize`.
enum AuthorizeOption: String, CaseIterable, Sendable {
  case restrictToPath = "--restrict-to-path"
  case restrictToRepository = "--restrict-to-repository"
  case permissions = "--permissions"
  case program = "--program"
  case unrestricted = "--unrestricted"
  case help = "--help"

  /// All spellings, the whole name first. There are no abbreviations: nothing is to be compatible with.
  var names: [String] { self == .help ? [rawValue, "-h"] : [rawValue] }

  var takesValue: Bool {
    switch self {
    case .restrictToPath, .restrictToRepository, .permissions, .program: true
    case .unrestricted, .help: false
    }
  }
}

/// What the words after `authorize` ask for.
enum AuthorizeRequest {
  case help
  case line(AuthorizeOptions)
}

/// Reads `[options] KEYFILE`, options in any place, with their value as `--option VALUE` or `--option=VALUE`.
///
/// What follows the word `--` is no option.
struct AuthorizeReader {
  private var options = AuthorizeOptions()
  private var isUnrestricted = false
  private var operands: [[UInt8]] = []

  static func read(_ words: ArraySlice<[UInt8]>) throws(UsageError) -> AuthorizeRequest {
    var reader = AuthorizeReader()
    var rest = words
    while let word = rest.popFirst() {
      if word.elementsEqual("--".utf8) {
        reader.operands += rest
        break
      }
      guard word.first == UInt8(ascii: "-"), word.count > 1 else {
        reader.operands.append(word)
        continue
      }
      let equals = word.firstIndex(of: UInt8(ascii: "="))
      let name = word[..<(equals ?? word.endIndex)]
      guard let option = AuthorizeOption.allCases.first(where: { $0.isCalled(name) }) else {
        throw UsageError("authorize: unrecognized arguments: \(printable(word))")
      }
      var value = equals.map { Array(word[($0 + 1)...]) }
      if option.takesValue {
        if value == nil { value = rest.popFirst() }
        guard let value else { throw Self.problem(option, "expected one argument") }
        try reader.take(option, value)
      } else {
        guard value == nil else { throw Self.problem(option, "takes no value") }
        if option == .help { return .help }
        reader.isUnrestricted = true
      }
    }
    return .line(try reader.finish())
  }

  private mutating func take(_ option: AuthorizeOption, _ value: [UInt8]) throws(UsageError) {
    switch option {
    case .restrictToPath: options.restrictToPaths.append(try Self.restriction(option, value))
    case .restrictToRepository: options.restrictToRepositories.append(try Self.restriction(option, value))
    case .permissions:
      guard options.permissions == nil else { throw Self.problem(option, "There can be only one.") }
      guard let permissions = Permissions(word: value) else {
        let choices = Permissions.allCases.map(\.rawValue).joined(separator: ", ")
        throw Self.problem(option, "invalid choice: \(quoted(value)) (choose from \(choices))")
      }
      options.permissions = permissions
    case .program:
      guard options.program == nil else { throw Self.problem(option, "There can be only one.") }
      options.program = try Self.path(option, value)
    case .unrestricted, .help: break
    }
  }

  private consuming func finish() throws(UsageError) -> AuthorizeOptions {
    guard operands.count == 1, let operand = operands.first, !operand.isEmpty else {
      throw UsageError("authorize: give one file with a public key, or - for standard input")
    }
    options.keyFile = operand.elementsEqual("-".utf8) ? nil : operand
    let isRestricted = !options.restrictToPaths.isEmpty || !options.restrictToRepositories.isEmpty
    guard isRestricted || isUnrestricted else {
      throw UsageError(
        "authorize: give --restrict-to-path or --restrict-to-repository, or --unrestricted for a key that may"
          + " use every repository of its user")
    }
    guard !isRestricted || !isUnrestricted else {
      throw UsageError("authorize: --unrestricted contradicts the other options")
    }
    return options
  }

  private static func restriction(_ option: AuthorizeOption, _ value: [UInt8]) throws(UsageError) -> [UInt8] {
    let path = try path(option, value)
    guard path.count > 1 else { throw problem(option, "/ restricts nothing; --unrestricted says so") }
    return path
  }

  private static func path(_ option: AuthorizeOption, _ value: [UInt8]) throws(UsageError) -> [UInt8] {
    do throws(ForcedPath.Failure) {
      return try ForcedPath.normalized(value)
    } catch {
      throw problem(option, "\(error.rawValue): \(quoted(value))")
    }
  }

  private static func problem(_ option: AuthorizeOption, _ problem: String) -> UsageError {
    UsageError("authorize: argument \(option.rawValue): \(problem)")
  }
}

extension AuthorizeOption {
  fileprivate func isCalled(_ name: some Collection<UInt8>) -> Bool {
    names.contains { name.elementsEqual($0.utf8) }
  }
}

/// A path that may stand in a forced command.
enum ForcedPath {
  enum Failure: String, Error {
    case notAbsolute = "not an absolute path"
    case tooLong = "too long for a path"
    case hasControls = "control characters are not allowed in a path"
    case hasDots = "the components . and .. are not allowed"
  }

  /// Bytes of the longest path (Linux: 4096 with the NUL behind it).
  static let sizeLimit = 4095

  /// The path with one slash between components and none at the end.
  ///
  /// It has to be absolute: a relative one would start at the home of whoever logs in. `.` and `..` are
  /// refused rather than removed, since what `..` leads to depends on links. Any other byte is kept, also
  /// those that are no UTF-8.
  static func normalized(_ path: [UInt8]) throws(Failure) -> [UInt8] {
    let slash = UInt8(ascii: "/")
    guard path.first == slash else { throw .notAbsolute }
    guard path.count <= sizeLimit else { throw .tooLong }
    let scalars = String(decoding: path, as: UTF8.self).unicodeScalars
    guard !scalars.contains(where: { $0.properties.generalCategory == .control }) else { throw .hasControls }
    let components = path.split(separator: slash)
    guard !components.contains(where: { $0.elementsEqual(".".utf8) || $0.elementsEqual("..".utf8) }) else {
      throw .hasDots
    }
    return components.isEmpty ? [slash] : components.flatMap { [slash] + $0 }
  }
}
