/// Everything that can go wrong for a client, as closed cases.
///
/// What a client is shown of each is decided in one place per dialect; see `WireError` in `RPC`. No case
/// holds a secret, and paths in them are the client's own spelling.
public enum ServeError: Error, Equatable, Sendable {
  // The repository as a whole.
  case repositoryMissing(String)
  case repositoryExists(String)
  case repositoryInvalid(String)
  case repositoryConfigInvalid(String, detail: String)
  /// A repository of another version than the one asked for: which.
  case repositoryVersion(String, Int)
  /// Something else, or a directory that is not empty, is where a repository was to be created.
  case pathAlreadyExists(String)
  /// The directory in which a repository was to be created is missing.
  case parentPathMissing(String)
  /// A repository of Borg's predecessor.
  case repositoryAttic(String)
  /// Index and segments contradict each other in a way that only a check can mend: path, and what else.
  case checkNeeded(String)
  /// No repository is open, or no longer.
  case notOpen
  case pathNotAllowed(String)
  case pathPermissionDenied(String)
  /// The mode that the administrator chose does not admit it: what, and which mode.
  case permissionDenied(String)

  // Objects.
  /// A repository object of `data/`, by its id in hex.
  case objectMissing(String)
  /// Any other object, by its nested name.
  case storeObjectMissing(String)
  case manifestMissing
  /// Stored or sent bytes that contradict themselves or a limit.
  case integrity(String)

  // Locks, with a text that names the repository.
  case lockTimeout(String)
  case notLocked(String)
  /// A lock cannot even be tried for: which, and why.
  case lockFailed(String, reason: String)

  // Space, in bytes.
  case insufficientFreeSpace(required: UInt64, available: UInt64)
  case storageQuotaExceeded(quota: UInt64, use: UInt64)

  // Requests.
  case methodUnknown(String)
  /// An argument is missing or of the wrong type.
  case argumentType(String)
  /// An argument has the right type and no usable value.
  case argumentValue(String)
  /// What a page of a listing is to follow is not there.
  case markerUnknown(String)
  /// A rule of the protocol that clients keep, such as holding the exclusive lock, was broken: the original's words.
  case assertion(String)
  /// The nonce that a client builds on is not the stored one.
  case nonceMismatch
  /// A name that lies in none of the store's namespaces.
  case namespaceUnknown(String)
  /// Something that this server does not do, in one sentence.
  case unsupported(String)
  /// The client went away, or the server was told to stop, while this was under way.
  case cancelled

  // The machine.
  case system(SystemFailure)

  /// What the upstream test suite asks for by `inject_exception`.
  case injected(String)
}

/// A system call that failed: what was being done, to what, and why.
public struct SystemFailure: Error, Equatable, Sendable {
  /// A verb phrase: "write", "make durable".
  public let operation: String
  /// The object or directory as a name inside the repository, or the client's own spelling of its path.
  public let name: String
  /// The C library's error number.
  public let code: Int32
  /// The C library's text for it.
  public let reason: String

  public init(operation: String, name: String, code: Int32, reason: String) {
    self.operation = operation
    self.name = name
    self.code = code
    self.reason = reason
  }
}
