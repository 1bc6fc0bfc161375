import BorgFormat
import Disk
import SystemPackage

/// A session's lock on a repository of Borg 1: shared with other readers, or exclusive.
///
/// Who holds it stands in `lock.roster`, which only the one touches who has `lock.exclusive`; the exclusive holder keeps
/// that. Nothing here is synced: locks are for programs that run now, and what a power cut leaves of them every Borg
/// takes for nothing. A class because it is given back exactly once, by whoever comes first. Not thread-safe, as the
/// repository that it locks. Every call blocks. Source: borg 1.4.5 `src/borg/locking.py`, `Lock`.
final class SegmentLock {
  private enum Mode: Equatable {
    case none
    case shared(SessionLocks.Token)
    case exclusive
  }

  private static let rosterName = "lock.roster"
  /// How often readers are looked for again.
  private static let readersInterval = Duration.milliseconds(200)
  /// How long a reader that goes waits for others that change the roster, which takes them no time. If it was in vain,
  /// its entry is stale once the process is gone, and for the other sessions of the process at once.
  private static let releaseWait = Duration.seconds(10)

  private let root: Directory
  private let label: String
  private let identity: LockIdentity
  private let reporter: any Reporter
  private let cancellation: Cancellation
  private var mode = Mode.none
  /// Holders that were said to be gone.
  private var reported: Set<LockHolder> = []
  /// The right to touch the lock's files, among the sessions of this process.
  private var claim: SessionLocks.Token?
  /// Found when the lock is first wanted: the name service may have to be asked, and the disk.
  private var known: (files: LockDirectory, repository: SessionLocks.Repository)?

  /// `label` is the repository's path as the client spells it, for messages.
  init(
    root: Directory, label: String, identity: LockIdentity, reporter: any Reporter,
    cancellation: Cancellation
  ) {
    (self.root, self.label, self.identity) = (root, label, identity)
    (self.reporter, self.cancellation) = (reporter, cancellation)
  }

  // MARK: Taking it

  /// Waits for the lock that many may have at a time: nil for ever, zero for one attempt.
  ///
  /// Throws `lockTimeout`, `lockFailed` or `cancelled`; then nothing of ours is left.
  func acquireShared(wait: Duration?) throws(ServeError) {
    precondition(mode == .none, "a lock is taken once")
    try enter(LockWait(wait, cancellation))
    do {
      var roster = try loadRoster()
      let own = try files().holder
      if !roster.shared.contains(own) { roster.shared.append(own) }
      try save(roster)
    } catch {
      leave()
      throw error
    }
    let repository = try place().repository
    let token = identity.sessions.addReader(repository)
    // Not if it merely cannot be seen: our entry is in the roster.
    if (try? place().files.isOurs()) == false {
      // Somebody broke it in this moment, and the roster with it.
      identity.sessions.removeReader(token, repository)
      leave()
      throw .notLocked("\(label)/\(LockDirectory.name)")
    }
    leave()
    mode = .shared(token)
  }

  /// Waits for the lock that keeps out all others: nil for ever, zero for one attempt. Throws as `acquireShared`.
  func acquireExclusive(wait: Duration?) throws(ServeError) {
    precondition(mode == .none, "a lock is taken once")
    try becomeExclusive(wait)
  }

  /// Makes a shared lock exclusive, once all other readers have gone; two that want this at once wait in vain.
  ///
  /// Throws as `acquireShared`; then the lock is still shared.
  func upgrade(wait: Duration?) throws(ServeError) {
    switch mode {
    case .exclusive:
      // Somebody broke it: what it protected may have changed since.
      guard holdsExclusive else { throw .notLocked("\(label)/\(LockDirectory.name)") }
    case .none: throw .notLocked("\(label)/lock")
    case .shared: try becomeExclusive(wait)
    }
  }

  /// Makes an exclusive lock shared again.
  ///
  /// Throws `notLocked` if somebody broke it; then nothing is held.
  func downgrade() throws(ServeError) {
    guard mode == .exclusive else { return }
    let (files, repository) = try place()
    guard holdsExclusive else {
      try release()
      throw .notLocked("\(label)/\(LockDirectory.name)")
    }
    var roster = try loadRoster()
    roster.exclusive.removeAll { $0 == files.holder }
    if !roster.shared.contains(files.holder) { roster.shared.append(files.holder) }
    try save(roster)
    mode = .shared(identity.sessions.addReader(repository))
    leave()
  }

  private func becomeExclusive(_ duration: Duration?) throws(ServeError) {
    let wait = LockWait(duration, cancellation)
    while true {
      try enter(wait)
      do {
        if try replaceReaders() { return }
      } catch {
        leave()
        throw error
      }
      leave()
      guard try wait.pause(Self.readersInterval) else { throw .lockTimeout("\(label)/lock") }
    }
  }

  /// With `lock.exclusive` in our hands: has the whole lock if there is no reader but, maybe, this session.
  private func replaceReaders() throws(ServeError) -> Bool {
    let (files, repository) = try place()
    var roster = try loadRoster()
    let sessions = identity.sessions
    if !roster.shared.contains(files.holder) { sessions.forgetReaders(repository) }
    var own: SessionLocks.Token?
    if case .shared(let token) = mode { own = token }
    guard sessions.readers(repository) <= (own == nil ? 0 : 1) else { return false }
    roster.shared.removeAll { $0 == files.holder }
    guard roster.shared.isEmpty else { return false }
    if !roster.exclusive.contains(files.holder) { roster.exclusive.append(files.holder) }
    try save(roster)
    if let own { sessions.removeReader(own, repository) }
    mode = .exclusive
    return true
  }

  // MARK: Looking

  /// Whether the exclusive lock was taken, and is still on the disk: somebody may have broken it.
  ///
  /// Not either if another's file is beside ours, as that of a Borg 1.1 that was stopped while it took the lock (W20).
  var holdsExclusive: Bool {
    guard mode == .exclusive else { return false }
    return isEntered()
  }

  private func isEntered() -> Bool {
    guard let claim, let (files, repository) = known,
      identity.sessions.isClaimed(by: claim, repository)
    else { return false }
    return (try? files.isOursAlone()) ?? false
  }

  // MARK: Giving it back

  /// Gives back whatever is held; nothing is no error.
  ///
  /// Throws `notLocked` if somebody broke the exclusive lock: then what is there is another's, and stays. After a throw,
  /// too, nothing is held any more. A hangup does not cut it short.
  func release() throws(ServeError) {
    defer { mode = .none }
    switch mode {
    case .none: return
    case .shared(let token): try releaseShared(token)
    case .exclusive: try releaseExclusive()
    }
  }

  private func releaseExclusive() throws(ServeError) {
    let (files, repository) = try place()
    defer { leave() }
    guard let claim, identity.sessions.isClaimed(by: claim, repository), (try? files.isOurs()) == true else {
      throw .notLocked("\(label)/\(LockDirectory.name)")
    }
    var roster = try loadRoster()
    roster.exclusive.removeAll { $0 == files.holder }
    try save(roster)
  }

  private func releaseShared(_ token: SessionLocks.Token) throws(ServeError) {
    let (files, repository) = try place()
    identity.sessions.removeReader(token, repository)
    // Other sessions of this process need the entry.
    guard identity.sessions.readers(repository) == 0 else { return }
    // Somebody broke it, and has the lock for as long as he likes.
    if let roster = try? readRoster(), !roster.exclusive.isEmpty, !roster.shared.contains(files.holder) {
      return
    }
    try enter(LockWait(Self.releaseWait, nil))
    defer { leave() }
    guard identity.sessions.readers(repository) == 0 else { return }
    var roster = try loadRoster()
    guard roster.shared.contains(files.holder) else { return }
    roster.shared.removeAll { $0 == files.holder }
    try save(roster)
  }

  // MARK: Breaking it

  /// Removes every lock, whoever holds it.
  func breakAll() throws(ServeError) {
    let (files, repository) = try place()
    try ServeError.doing("remove", "\(label)/\(Self.rosterName)") { () throws(Errno) in
      _ = try root.remove(Self.rosterName)
    }
    try files.breakAll()
    identity.sessions.forgetReaders(repository)
    if let broken = identity.sessions.establishedClaim(repository) {
      identity.sessions.revoke(broken, repository)
    }
    files.sweep()
  }

  /// Removes the locks of processes of this host that are gone; returns how many holders are left.
  func breakStale() throws(ServeError) -> Int {
    let (files, repository) = try place()
    let now: [LockHolder]
    do {
      try enter(LockWait(.zero, cancellation))
      defer { leave() }
      let roster = try loadRoster()
      if identity.sessions.readers(repository) == 0, roster.shared.contains(files.holder) {
        try save(LockRoster(exclusive: roster.exclusive, shared: roster.shared.filter { $0 != files.holder }))
      } else {
        try save(roster)
      }
      return Set(roster.exclusive + roster.shared).count
    } catch .lockTimeout {
      // Somebody has it, and with it the roster, which nobody else changes: what is stale in it goes with him.
      let roster = (try? readRoster()) ?? LockRoster()
      now = (roster.exclusive + roster.shared).filter { !files.isStale($0) }
    }
    let names = (try? root.directory(LockDirectory.name).entries()) ?? []
    let holders = names.compactMap { LockHolder(fileName: $0) }
    return Set(now + holders).count + (names.count - holders.count)
  }

  // MARK: lock.exclusive

  private func place() throws(ServeError) -> (files: LockDirectory, repository: SessionLocks.Repository) {
    if let known { return known }
    let holder = LockHolder(host: identity.hostID(), process: identity.processID)
    let files = LockDirectory(
      root: root, label: label, holder: holder, processIsAlive: identity.processIsAlive, reporter: reporter)
    do {
      let status = try root.status()
      let found = (files, SessionLocks.Repository(device: status.device, inode: status.inode))
      known = found
      return found
    } catch {
      throw files.failure("", error)
    }
  }

  private func files() throws(ServeError) -> LockDirectory { try place().files }

  /// Waits for `lock.exclusive`. Throws `lockTimeout`, `lockFailed` or `cancelled`; then nothing is held.
  private func enter(_ wait: LockWait) throws(ServeError) {
    let (files, repository) = try place()
    var isFirst = true
    while true {
      if try attempt(files, repository, complains: isFirst) { return files.sweep() }
      isFirst = false
      guard try wait.pause(wait.interval) else { throw .lockTimeout("\(label)/\(LockDirectory.name)") }
    }
  }

  private func attempt(
    _ files: LockDirectory, _ repository: SessionLocks.Repository, complains: Bool
  ) throws(ServeError) -> Bool {
    let sessions = identity.sessions
    // Another session's lock may have been broken by another program, and its client be silent for hours.
    if let other = sessions.establishedClaim(repository), (try? files.isOurs()) == false {
      sessions.revoke(other, repository)
    }
    guard let token = sessions.claim(repository) else { return false }
    do {
      guard try files.take(complains: complains) else {
        sessions.giveBack(token, repository)
        return false
      }
    } catch {
      sessions.giveBack(token, repository)
      throw error
    }
    sessions.setEstablished(true, token, repository)
    claim = token
    return true
  }

  /// Removes our file from `lock.exclusive`, if it is ours, and lets other sessions of this process go on.
  private func leave() {
    guard let token = claim, let (files, repository) = known else { return }
    claim = nil
    guard identity.sessions.isClaimed(by: token, repository) else { return }
    identity.sessions.setEstablished(false, token, repository)
    files.withdraw()
    identity.sessions.giveBack(token, repository)
  }

  // MARK: lock.roster

  private func readRoster() throws(Errno) -> LockRoster {
    let file: OpenFile
    do {
      file = try root.file(Self.rosterName)
    } catch .noSuchFileOrDirectory {
      return LockRoster()
    }
    return LockRoster(parsing: try file.read(at: 0, count: min(try file.size(), Limits.lockRoster + 1)))
  }

  /// The roster without those who are gone; they are removed from the disk with the next change.
  private func loadRoster() throws(ServeError) -> LockRoster {
    let files = try files()
    var roster: LockRoster
    do {
      roster = try readRoster()
    } catch {
      throw rosterFailure(error)
    }
    let living = { [self] (holders: [LockHolder], kind: String) in
      holders.filter { other in
        guard files.isStale(other) else { return true }
        // Once for each, however often the roster is looked at until it is ours to write.
        if reported.insert(other).inserted {
          reporter.log(
            .warning, .locking,
            "Removed stale \(kind) roster lock for host \(other.host) pid \(other.process) thread \(other.thread)."
          )
        }
        return false
      }
    }
    roster.shared = living(roster.shared, "shared")
    // Nobody else has the lock while we look, and the one who changes this to his own writes it right away.
    roster.exclusive = living(roster.exclusive, "exclusive")
    return roster
  }

  /// Replaces the roster in one step (W19), by a file that goes with `lock.exclusive` if we die before.
  private func save(_ roster: LockRoster) throws(ServeError) {
    let scratch = try files().scratchFile
    do {
      if roster.isEmpty {
        _ = try root.remove(Self.rosterName)
        return
      }
      let text = roster.encode()
      try root.file(scratch, .createByMask).write(text, text.indices, at: 0)
      try root.rename(scratch, to: Self.rosterName, in: root)
    } catch {
      _ = try? root.remove(scratch)
      throw rosterFailure(error)
    }
  }

  private func rosterFailure(_ errno: Errno) -> ServeError {
    .lockFailed(
      "\(label)/lock",
      reason: "[Errno \(errno.rawValue)] \(errno.description): '\(label)/\(Self.rosterName)'")
  }
}
