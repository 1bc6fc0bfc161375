import BorgFormat
import Glibc

/// What a client is told of an error: the class that it rebuilds, with the arguments that the class takes.
///
/// The one place where errors meet the wire. Classes that stock clients know become their own messages and
/// exit codes there; for all others they print the `short` lines. Source: borg 2.0.0b16 to b21
/// `src/borg/remote.py`, `RemoteRepository.call_many`.
struct WireError: Equatable {
  let exceptionClass: String
  let arguments: [String]
  /// One line, without the class.
  let message: String
  /// Whether clients print it with a traceback: the original's choice for each class.
  let showsTrace: Bool

  private init(_ exceptionClass: String, _ arguments: [String], _ message: String, trace: Bool = false) {
    self.exceptionClass = exceptionClass
    self.arguments = arguments
    self.message = message
    showsTrace = trace
  }

  /// `repository` is the path as the client gave it; `available` the bytes that may still be written.
  init(_ error: ServeError, client: BorgVersion?, repository: String, available: UInt64?) {
    switch error {
    case .repositoryMissing(let path):
      self.init("DoesNotExist", [path], "Repository \(path) does not exist.")
    case .repositoryExists(let path):
      self.init("AlreadyExists", [path], "A repository already exists at \(path).")
    case .repositoryInvalid(let path):
      self.init("InvalidRepository", [path], "\(path) is not a valid repository.")
    case .repositoryConfigInvalid(let path, let detail):
      self.init("InvalidRepositoryConfig", [path, detail], "\(path) is not configured validly: \(detail)")
    case .repositoryVersion(let path, let version):
      self = .plain(Self.sentence(onVersion: version, of: path))
    case .pathAlreadyExists(let path):
      self.init("PathAlreadyExists", [path], "There is already something at \(path).")
    case .parentPathMissing(let path):
      self.init(
        "ParentPathDoesNotExist", [path], "The parent path of the repo directory [\(path)] does not exist.")
    case .repositoryAttic(let path):
      self.init("AtticRepository", [path], "Attic repository detected. Please run \"borg upgrade \(path)\".")
    case .checkNeeded(let text):
      self.init(
        "CheckNeeded", [text], "Inconsistency detected. Please run \"borg check \(text)\".", trace: true)
    case .notOpen:
      self = .plain("No repository is open on this connection.")
    case .pathNotAllowed(let path):
      self.init("PathNotAllowed", [path], "Repository path not allowed: \(path)")
    case .pathPermissionDenied(let path):
      self.init("PathPermissionDenied", [path], "Permission denied to \(path).")
    case .permissionDenied(let text):
      self.init("PermissionDenied", [text], "Permission denied: \(text).")
    case .objectMissing(let id):
      let message = "Object with key \(id) not found in repository \(repository)."
      self.init("ObjectNotFound", [id, repository], message, trace: true)
    case .storeObjectMissing(let name):
      // Clients up to b20 know and expect only the older class here, b21 only the newer one.
      let isKnown = client.map { $0 >= .storeObjectNotFound } ?? false
      self.init(isKnown ? "StoreObjectNotFound" : "ObjectNotFound", [name], "\(name) not found", trace: true)
    case .manifestMissing:
      self.init("NoManifestError", [], "Repository has no manifest.")
    case .integrity(let text):
      self.init("IntegrityError", [text], "Data integrity error: \(text)", trace: true)
    case .lockTimeout(let text):
      self.init("LockTimeout", [text], "Failed to create/acquire the lock \(text) (timeout).")
    case .notLocked(let text):
      self.init("NotLocked", [text], "Failed to release the lock \(text) (was not locked).", trace: true)
    case .lockFailed(let text, let reason):
      self.init(
        "LockFailed", [text, reason], "Failed to create/acquire the lock \(text) (\(reason)).", trace: true)
    case .insufficientFreeSpace(let required, let available):
      let (required, available) = (Self.size(required), Self.size(available))
      self.init(
        "InsufficientFreeSpaceError", [required, available],
        "Insufficient free space to complete transaction (required: \(required), available: \(available)).")
    case .storageQuotaExceeded(let quota, let use):
      let (quota, use) = (Self.size(quota), Self.size(use))
      self.init(
        "StorageQuotaExceeded", [quota, use],
        "The storage quota (\(quota)) has been exceeded (\(use)). Try deleting some archives.")
    case .methodUnknown(let method):
      self.init("InvalidRPCMethod", [method], "RPC method \(method) is not valid")
    case .argumentType(let text):
      self.init("TypeError", [text], text)
    case .argumentValue(let text):
      self.init("ValueError", [text], text)
    case .namespaceUnknown(let text):
      self.init("KeyError", [text], text)
    case .markerUnknown(let text):
      self.init("KeyError", [text], text)
    case .assertion(let text):
      self.init("AssertionError", [text], text)
    case .nonceMismatch:
      let text = "nonce space reservation with mismatched previous state"
      self.init("Exception", [text], text)
    case .unsupported(let text):
      self = .plain(text)
    case .cancelled:
      self = .plain("The operation was stopped because the connection ended.")
    case .system(let failure):
      self.init(failure, available: available)
    case .injected(let kind):
      self.init(injected: kind)
    }
  }

  private init(_ failure: SystemFailure, available: UInt64?) {
    let what = "\(failure.operation) \(failure.name)"
    switch failure.code {
    case ENOSPC, EDQUOT:
      let left = failure.code == EDQUOT ? "disk quota exceeded" : available.map(Self.size) ?? "none"
      self.init(
        "InsufficientFreeSpaceError", ["space to \(what)", left],
        "No space left to \(what) (available: \(left)).")
    case EACCES, EPERM:
      self.init("PathPermissionDenied", [what], "Permission denied to \(what).")
    default:
      self = .plain("Could not \(what): \(failure.reason)")
    }
  }

  /// What the upstream test suite expects of `inject_exception`.
  private init(injected kind: String) {
    let (first, second) = ("test string", "test string2")
    switch kind {
    case "PathNotAllowed": self.init(kind, ["foo"], "foo")
    case "ObjectNotFound": self.init(kind, [first, second], first, trace: true)
    case "divide": self.init("ZeroDivisionError", ["division by zero"], "division by zero", trace: true)
    default: self.init(kind, [first], first, trace: kind == "CheckNeeded" || kind == "IntegrityError")
    }
  }

  /// What a client may do instead that asked for a repository of another version.
  private static func sentence(onVersion version: Int, of path: String) -> String {
    switch version {
    case 1:
      "\(path) is a repository of Borg 1.x. Borg 2 reads it as the source of `borg transfer`: "
        + "with --other-repo and --from-borg1."
    case 2:
      "\(path) is a repository of version 2, which only early betas of Borg 2 made. It is not served: this server "
        + "knows versions 1 and 3."
    case 3: "\(path) is a repository of Borg 2, which is opened without --from-borg1."
    default: "\(path) is a repository of version \(version), which this server does not know."
    }
  }

  /// The same for a client that has asked for a repository of Borg 1.x: the class by which it reaches those rebuilds
  /// fewer exceptions, and nothing catches what it makes of the others. They go out as `Error`, which every client
  /// prints as one line.
  ///
  /// Source: borg 2.0.0b16 to b21 `src/borg/legacyremote.py`, `LegacyRemoteRepository.call_many`.
  var rebuildableForBorg1: WireError {
    Self.rebuiltForBorg1.contains(exceptionClass) ? self : .plain(message)
  }

  private static let rebuiltForBorg1: Set<String> = [
    "Error", "DoesNotExist", "AlreadyExists", "CheckNeeded", "IntegrityError", "PathNotAllowed",
    "PathPermissionDenied", "ParentPathDoesNotExist", "ObjectNotFound", "InvalidRPCMethod", "LockTimeout",
    "LockFailed", "NotLocked",
    // Asked for by `inject_exception` alone, by a test that expects it.
    "ZeroDivisionError",
  ]

  private static func plain(_ message: String) -> WireError { WireError("Error", [message], message) }

  private static func size(_ bytes: UInt64) -> String { FileSize.text(Int(clamping: bytes)) }

  /// The error reply to a request. `sysinfo` describes the server for a bug report, or is empty.
  func reply(to id: MessageID, sysinfo: String) -> [UInt8] {
    var writer = MessagePackWriter(reserving: 256)
    writer.map(count: 7)
    writer.string("i")
    writer.raw(id.encoded)
    writer.string("exception_class")
    writer.string(exceptionClass)
    writer.string("exception_args")
    writer.array(count: arguments.count)
    for argument in arguments { writer.string(argument) }
    let isBorgError = !Self.foreignClasses.contains(exceptionClass)
    let line = isBorgError ? message : "\(exceptionClass): \(message)\n"
    for key in ["exception_full", "exception_short"] {
      writer.string(key)
      writer.array(count: 1)
      writer.string(line)
    }
    writer.string("exception_trace")
    writer.bool(showsTrace)
    writer.string("sysinfo")
    writer.string(sysinfo)
    return writer.bytes
  }

  /// Python's own classes, whose short text begins with the class.
  private static let foreignClasses: Set<String> = [
    "TypeError", "ValueError", "KeyError", "ZeroDivisionError", "AssertionError", "Exception",
  ]
}
