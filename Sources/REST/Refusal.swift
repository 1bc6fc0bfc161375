import BorgFormat
import Glibc

/// A request's answer other than success: the status and a line that says why.
struct Refusal: Error, Equatable {
  let status: Int
  let text: String

  init(_ status: Int, _ text: String) {
    (self.status, self.text) = (status, text)
  }

  /// The one place where an error gets its status.
  ///
  /// Source: borgstore 0.7.0 `server/rest.py`, `_handle_exception`; where it crashes (500) and the client is at fault, 409.
  init(_ error: ServeError) {
    switch error {
    case .repositoryMissing(let place): self.init(410, "there is no store: \(place)")
    case .repositoryExists(let place), .pathAlreadyExists(let place):
      self.init(409, "there is something already: \(place)")
    case .repositoryInvalid(let text): self.init(409, text)
    case .repositoryVersion(let place, let version):
      self.init(409, "a repository of version \(version) is not for this protocol: \(place)")
    case .permissionDenied(let text): self.init(403, text)
    case .pathNotAllowed(let place): self.init(403, "this path is not allowed: \(place)")
    case .objectMissing(let name), .storeObjectMissing(let name): self.init(404, name)
    case .argumentType(let text), .argumentValue(let text), .namespaceUnknown(let text): self.init(400, text)
    case .storageQuotaExceeded(let quota, let use):
      self.init(507, "the quota of \(quota) bytes is exceeded: \(use) bytes")
    case .insufficientFreeSpace(let required, let available):
      self.init(507, "\(required) bytes are needed, \(available) are free")
    case .unsupported(let text): self.init(501, text)
    case .cancelled: self.init(503, "the server ends")
    case .integrity(let text), .checkNeeded(let text): self.init(500, text)
    case .system(let failure): self.init(Self.status(of: failure), Self.text(of: failure))
    case .repositoryConfigInvalid, .parentPathMissing, .repositoryAttic, .notOpen, .pathPermissionDenied,
      .manifestMissing, .lockTimeout, .notLocked, .lockFailed, .methodUnknown, .markerUnknown, .assertion,
      .nonceMismatch, .injected:
      self.init(500, "\(error)")
    }
  }

  private static func status(of failure: SystemFailure) -> Int {
    switch failure.code {
    case ENOSPC, EDQUOT: 507
    case EISDIR, ENOTDIR, ENOTEMPTY, EEXIST: 409
    case ENAMETOOLONG: 400
    case ENOENT: 404
    default: 500
    }
  }

  private static func text(of failure: SystemFailure) -> String {
    "\(failure.operation) \(failure.name): \(failure.reason)"
  }

  /// Runs what may fail, and says with which status.
  static func naming<Result>(_ body: () throws(ServeError) -> Result) throws(Refusal) -> Result {
    do {
      return try body()
    } catch {
      throw Refusal(error)
    }
  }
}

extension ServeError {
  /// Whether a component on the way to an object is one itself: then there is nothing.
  var isBelowObject: Bool {
    guard case .system(let failure) = self else { return false }
    return failure.code == ENOTDIR
  }
}
