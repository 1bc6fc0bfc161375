import BorgFormat
import Glibc

/// What a client of Borg 1.x is told of an error: the class that it rebuilds, with the arguments that it indexes.
///
/// The one place where errors meet the wire of 1.x, beyond what `WireError` has for both. Class names and sentences are
/// those of 1.4.5; classes that a client does not know print the sentence. Neither paths of the server nor tracebacks are in them. Source: borg 1.1.18 to
/// 1.4.5 `src/borg/remote.py`, `RepositoryServer.serve`, `RemoteRepository.call_many`.
struct Borg1Error: Equatable {
  let exceptionClass: String
  let arguments: [String]
  /// One line, as it stands in `exception_short`.
  let message: String
  /// Whether clients print the long form, `exception_full`: the original's choice for each class.
  let showsTrace: Bool

  /// The server logs nothing of these: the client says it all. (The set that 1.4 has.)
  var isSilent: Bool {
    switch exceptionClass {
    case "DoesNotExist", "AlreadyExists", "PathAlreadyExists", "PathNotAllowed", "InvalidRepository",
      "InvalidRepositoryConfig", "InsufficientFreeSpaceError", "StorageQuotaExceeded":
      true
    default: false
    }
  }

  private init(_ exceptionClass: String, _ arguments: [String], _ message: String, trace: Bool = false) {
    (self.exceptionClass, self.arguments, self.message) = (exceptionClass, arguments, message)
    showsTrace = trace
  }

  /// One of Python's own classes, whose short text begins with the class and ends the line.
  private static func foreign(_ exceptionClass: String, _ text: String) -> Borg1Error {
    Borg1Error(exceptionClass, [text], "\(exceptionClass): \(text)\n", trace: true)
  }

  /// `repository` is the path as the client gave it.
  init(_ error: ServeError, repository: String) {
    switch error {
    case .repositoryMissing, .repositoryExists, .pathAlreadyExists, .parentPathMissing, .pathPermissionDenied,
      .pathNotAllowed, .repositoryAttic, .checkNeeded, .objectMissing, .integrity, .insufficientFreeSpace,
      .storageQuotaExceeded, .lockTimeout, .lockFailed, .notLocked, .permissionDenied:
      // As Borg 2 has it. `PermissionDenied` is a class that no 1.x knows: all of them print the sentence then, without
      // a traceback.
      let known = WireError(error, client: nil, repository: repository, available: nil)
      self.init(known.exceptionClass, known.arguments, known.message, trace: known.showsTrace)
    case .repositoryInvalid(let path):
      self.init("InvalidRepository", [path], "\(path) is not a valid repository. Check repo config.")
    case .repositoryConfigInvalid(let path, let detail):
      self.init(
        "InvalidRepositoryConfig", [path, detail],
        "\(path) does not have a valid configuration. Check repo config [\(detail)].")
    case .repositoryVersion(let path, let version):
      let detail = "repository version \(version) is not supported by this borg version"
      self.init(.repositoryConfigInvalid(path, detail: detail), repository: repository)
    case .methodUnknown(let method):
      self.init("InvalidRPCMethod", [method], "RPC method \(method) is not valid.")
    case .notOpen: self = .foreign("AttributeError", "no repository is open on this connection")
    case .argumentType(let text): self = .foreign("TypeError", text)
    case .argumentValue(let text): self = .foreign("ValueError", text)
    case .markerUnknown(let text), .namespaceUnknown(let text): self = .foreign("KeyError", text)
    case .assertion(let text): self = .foreign("AssertionError", text)
    case .nonceMismatch:
      self = .foreign("Exception", "nonce space reservation with mismatched previous state")
    case .unsupported(let text): self = .plain(text)
    case .cancelled: self = .plain("The operation was stopped because the connection ended.")
    // Errors of the other dialect's engine.
    case .storeObjectMissing(let name): self = .plain("\(name) not found")
    case .manifestMissing: self = .plain("Repository has no manifest.")
    case .system(let failure): self.init(failure)
    case .injected(let kind): self.init(injected: kind)
    }
  }

  private static func plain(_ text: String) -> Borg1Error { Borg1Error("Error", [text], "Error: \(text)") }

  private init(_ failure: SystemFailure) {
    let what = "\(failure.operation) \(failure.name)"
    switch failure.code {
    case ENOSPC, EDQUOT:
      self.init(
        "InsufficientFreeSpaceError", ["space to \(what)", failure.reason],
        "Insufficient free space to complete transaction (required: space to \(what), available: \(failure.reason))."
      )
    default:
      self = .plain("Could not \(what): \(failure.reason)")
    }
  }

  /// What the upstream test suite expects of `inject_exception`.
  private init(injected kind: String) {
    let (first, second) = ("test string", "test string2")
    switch kind {
    case "DoesNotExist": self.init(.repositoryMissing(first), repository: first)
    case "AlreadyExists": self.init(.repositoryExists(first), repository: first)
    case "CheckNeeded": self.init(.checkNeeded(first), repository: first)
    case "IntegrityError": self.init(.integrity(first), repository: first)
    case "PathNotAllowed": self.init(.pathNotAllowed("foo"), repository: first)
    case "ObjectNotFound": self.init(.objectMissing(first), repository: second)
    case "InvalidRPCMethod": self.init(.methodUnknown(first), repository: first)
    default: self = .foreign("ZeroDivisionError", "integer division or modulo by zero")
    }
  }

  /// Appends the error reply to a request. `sysinfo` describes the server for a bug report, or is empty.
  func append(
    to output: inout Borg1Output, _ form: Borg1Request.Form, _ id: ArraySlice<UInt8>, sysinfo: String
  ) {
    switch form {
    case .tuple:
      output.bytes.append(0x94)
      output.bytes.append(0x01)
      output.bytes.append(contentsOf: id)
      output.string(exceptionClass)
      output.string(message)
    case .map:
      output.map(count: 7)
      output.key("i")
      output.bytes.append(contentsOf: id)
      output.string("exception_class")
      output.string(exceptionClass)
      output.string("exception_args")
      output.array(count: arguments.count)
      for argument in arguments { output.string(argument) }
      for key in ["exception_full", "exception_short"] {
        output.string(key)
        output.array(count: 1)
        output.string(message)
      }
      output.string("exception_trace")
      output.bool(showsTrace)
      output.string("sysinfo")
      output.string(sysinfo)
    }
  }
}
