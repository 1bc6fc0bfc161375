import BorgFormat
import Disk
import SystemPackage

/// The file `nonce`. Every call blocks. Source: borg 1.4.5 `src/borg/repository.py`, `get_free_nonce`.
struct NonceFile {
  private static let name = "nonce"

  private let root: Directory
  private let label: String
  private let reporter: any Reporter

  /// `label` is the repository's path as the client spells it, for messages.
  init(root: Directory, label: String, reporter: any Reporter) {
    (self.root, self.label, self.reporter) = (root, label, reporter)
  }

  /// The nonce that clients may use next; nil if there is none yet. Throws `integrity` for a file that is not one.
  func load() throws(ServeError) -> UInt64? {
    let text = try ServeError.doing("read", "\(label)/\(Self.name)") { () throws(Errno) in
      // White space around the digits is no harm.
      try root.content(Self.name, limit: 256)
    }
    guard let text else { return nil }
    do {
      return try NonceText.parse(text)
    } catch {
      switch error {
      case .invalid(let reason): throw .unsupported("Repository has an invalid nonce file: \(reason)")
      }
    }
  }

  /// Stores a nonce durably, in one step. With `toleratesDenial` a missing right is only warned of, as on media that a
  /// client reads without a lock.
  func save(_ nonce: UInt64, toleratesDenial: Bool) throws(ServeError) {
    var isReplaced = false
    do {
      try root.replace(Self.name, with: NonceText.encode(nonce), isReplaced: &isReplaced)
    } catch {
      guard toleratesDenial, error.isDenial else {
        throw .system(SystemFailure("write", "\(label)/\(Self.name)", error))
      }
      reporter.log(.warning, .repository, denial(error, "\(label)/\(Self.name)"))
    }
  }
}

/// The original's words for a file of a repository that it may do without writing.
func denial(_ errno: Errno, _ name: String) -> String {
  "\(errno.description): Failed writing to '\(name)'. This is expected when working on read-only repositories."
}
