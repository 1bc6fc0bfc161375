import Disk
import Synchronization

/// Which sessions of this process hold or try the lock of which repository.
///
/// The locks of Borg 1 name a process, so that to others all sessions of one process are one holder: among themselves they
/// settle it here. A claim is the right to touch the files of a repository's lock; it is had before `lock.exclusive` is,
/// and as long. A class because all sessions share it; what it holds is short-lived and small.
final class SessionLocks: Sendable {
  struct Repository: Hashable, Sendable {
    let device: UInt64
    let inode: UInt64
  }

  /// Tells claims apart, and the readers before and after somebody broke their lock.
  typealias Token = UInt64

  private struct Entry {
    var claim: Token?
    /// Whether the claim's holder has its file in `lock.exclusive`, for long.
    var isEstablished = false
    var readers = 0
    var readersToken: Token = 0
    /// Repositories come and go: what says nothing is forgotten.
    var isIdle: Bool { claim == nil && readers == 0 }
  }

  private struct State {
    var entries: [Repository: Entry] = [:]
    var lastToken: Token = 0

    mutating func token() -> Token {
      lastToken += 1
      return lastToken
    }

    mutating func change<Result>(_ repository: Repository, _ body: (inout Entry) -> Result) -> Result {
      var entry = entries[repository] ?? Entry(readersToken: token())
      let result = body(&entry)
      entries[repository] = entry.isIdle ? nil : entry
      return result
    }
  }

  private let state = Mutex(State())

  // MARK: Claims

  /// The right to touch the lock's files; nil while another session has it.
  func claim(_ repository: Repository) -> Token? {
    state.withLock { state in
      let token = state.token()
      return state.change(repository) { entry in
        guard entry.claim == nil else { return nil }
        (entry.claim, entry.isEstablished) = (token, false)
        return token
      }
    }
  }

  func giveBack(_ token: Token, _ repository: Repository) {
    state.withLock { state in
      state.change(repository) { if $0.claim == token { $0.claim = nil } }
    }
  }

  func isClaimed(by token: Token, _ repository: Repository) -> Bool {
    state.withLock { $0.entries[repository]?.claim == token }
  }

  /// Notes that from now on, or no longer, the claim's file is to be found on the disk.
  func setEstablished(_ isEstablished: Bool, _ token: Token, _ repository: Repository) {
    state.withLock { state in
      state.change(repository) { if $0.claim == token { $0.isEstablished = isEstablished } }
    }
  }

  /// A claim whose file is to be found on the disk, if there is one.
  func establishedClaim(_ repository: Repository) -> Token? {
    state.withLock { state in
      state.entries[repository].flatMap { $0.isEstablished ? $0.claim : nil }
    }
  }

  /// Takes a claim from a session whose file somebody has removed; not if it is giving it back just now.
  func revoke(_ token: Token, _ repository: Repository) {
    state.withLock { state in
      state.change(repository) { if $0.claim == token, $0.isEstablished { $0.claim = nil } }
    }
  }

  // MARK: Readers

  func readers(_ repository: Repository) -> Int {
    state.withLock { $0.entries[repository]?.readers ?? 0 }
  }

  func addReader(_ repository: Repository) -> Token {
    state.withLock { state in
      state.change(repository) { entry in
        entry.readers += 1
        return entry.readersToken
      }
    }
  }

  func removeReader(_ token: Token, _ repository: Repository) {
    state.withLock { state in
      state.change(repository) { if $0.readersToken == token, $0.readers > 0 { $0.readers -= 1 } }
    }
  }

  /// Forgets all readers: somebody broke their lock.
  func forgetReaders(_ repository: Repository) {
    state.withLock { state in
      let token = state.token()
      state.change(repository) { ($0.readers, $0.readersToken) = (0, token) }
    }
  }
}
