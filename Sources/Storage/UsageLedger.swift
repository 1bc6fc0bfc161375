public import BorgFormat
public import Disk
import Synchronization
import SystemPackage

/// How many bytes the objects below a directory have, known without a scan: counted by everybody who stores there.
///
/// Two files in the directory, hidden from every Borg. `borg-serve-usage.hid` holds the count; each change of it is made
/// under an exclusive lock, so that all processes of this server on one host count together, and a limit is never
/// exceeded, not even by two that store at once. `borg-serve-usage-users.hid` is empty: each process that counts holds a
/// shared lock on it, by which the next one knows whether it is alone.
///
/// The count is not synced at each change. Instead the file says, durably, that somebody counts; whoever comes alone and
/// finds that, after a crash, counts anew before anything is stored. Bytes are reserved before they are stored and given
/// back after, so that a count is at times too high by what is on its way, and never too low.
///
/// A foreign writer, such as an original, does not count. It is noticed by the times of the directories at the top, which
/// are noted when the last one goes, and by `quota.hid`: borgstore 0.5 and later remove that file, or replace it, when they
/// open a store. Then the next one counts anew too.
///
/// Blocking and thread-safe. Works on file systems with locks that all processes see; not from two hosts at once.
public final class UsageLedger: Sendable {
  private let root: Directory
  private let file: OpenFile
  private let presence: OpenFile
  private let label: String
  /// Locks of files are the process's, so its threads need one of their own.
  private let turn = Mutex(())
  /// One count at a time: who needs one waits for that of another thread.
  private let counting = Mutex(())

  private static let fileName = RepositoryLayout.usageName
  private static let presenceName = RepositoryLayout.usageUsersName
  /// borgstore's own counter, whose absence tells of a foreign writer.
  private static let markerName = RepositoryLayout.quotaName

  /// Counts in the directory `root`, which `label` names in messages.
  public init(root: Directory, label: String) throws(ServeError) {
    (self.root, self.label) = (root, label)
    (file, presence) = try ServeError.doing("count the use of", label) { () throws(Errno) in
      (try Self.file(Self.fileName, in: root), try Self.file(Self.presenceName, in: root))
    }
    try transaction { (record) throws(Errno) in
      if try presence.lock(.exclusive, waits: false) {
        let wasLeft = record.opened == record.closed && record.reservations == 0
        if !wasLeft || record.isNew { record.isUnreliable = true }
        let (surroundings, marker) = (try surroundings(), try marker())
        if record.surroundings != surroundings || record.marker != marker { record.isForeign = true }
        (record.opened, record.closed, record.reservations) = (0, 0, 0)
      }
      _ = try presence.lock(.shared, waits: true)
      record.opened += 1
      if record.isForeign { record.marker = try plantMarker(record.usage) }
      try write(record)
      try file.sync()
      try root.sync()
    }
  }

  private static func file(_ name: String, in root: Directory) throws(Errno) -> OpenFile {
    while true {
      do throws(Errno) {
        return try root.file(name, .update)
      } catch .noSuchFileOrDirectory {
        do throws(Errno) {
          _ = try root.create(name)
        } catch .fileExists {
          // Somebody else was faster.
        }
      }
    }
  }

  /// Whether somebody counts in a directory.
  static func isKept(in root: Directory) throws(Errno) -> Bool { try root.status(fileName) != nil }

  /// What counts a repository's bytes: its own ledger, if it has one or there is a limit, and those of directories above it
  /// that are granted, for all that is below them.
  public static func limits(
    for location: RepositoryLocation, root: Directory, label: String, limit: UInt64?
  )
    throws(ServeError) -> [UsageLimit]
  {
    var limits: [UsageLimit] = []
    let isCounted = try ServeError.doing("look at", label) { () throws(Errno) in try isKept(in: root) }
    if limit != nil || isCounted {
      limits.append(UsageLimit(try UsageLedger(root: root, label: label), bytes: limit ?? .max))
    }
    for above in location.directoriesAbove() where (try? isKept(in: above)) == true {
      limits.append(UsageLimit(try UsageLedger(root: above, label: label), bytes: .max, isAbove: true))
    }
    return limits
  }

  /// Has those that count in directories above a repository count anew, after it was removed as a whole.
  public static func recount(above location: RepositoryLocation, label: String) {
    for above in location.directoriesAbove() where (try? isKept(in: above)) == true {
      guard let ledger = try? UsageLedger(root: above, label: label) else { continue }
      try? ledger.recount()
      try? ledger.close()
    }
  }

  /// Bytes that are counted now.
  public func usage() throws(ServeError) -> UInt64 {
    try transaction { (record) throws(Errno) in record.usage }
  }

  /// Bytes that everybody who stores here is held to; 0 is no limit.
  public func limit() throws(ServeError) -> UInt64 {
    try transaction { (record) throws(Errno) in record.limit }
  }

  /// Sets what `limit` says, durably.
  public func setLimit(_ limit: UInt64) throws(ServeError) {
    try transaction { (record) throws(Errno) in
      guard record.limit != limit else { return }
      record.limit = limit
      try write(record)
      try file.sync()
    }
  }

  /// Whether a count is due that may be made beside the work: a foreign writer was here.
  public func needsRecount() throws(ServeError) -> Bool {
    try transaction { (record) throws(Errno) in
      if try marker() != record.marker {
        record.isForeign = true
        record.marker = try plantMarker(record.usage)
        try write(record)
      }
      return record.isForeign || record.isUnreliable
    }
  }

  /// Counts `bytes` that are about to be stored. Throws `storageQuotaExceeded` if there would be more than `limit`.
  ///
  /// What cannot be relied on, after a crash or at the first time, is counted anew before; and so is what would be refused,
  /// if a foreign writer was here. A limit that is kept here counts besides. To be followed by `settle`, whatever comes of it.
  /// With `keeping`, a sixteenth of the limit, at most 1 MiB, is left to others; with `always` nothing is refused.
  public func reserve(_ bytes: UInt64, limit given: UInt64, keeping: Bool = false, always: Bool = false)
    throws(ServeError)
  {
    var hasRecounted = false
    while true {
      let outcome: Reservation = try transaction { (record) throws(Errno) in
        if record.isUnreliable, !hasRecounted { return .uncertain }
        let limit = record.limit > 0 ? min(record.limit, given) : given
        let (sum, overflows) = record.usage.addingReportingOverflow(bytes)
        // Nobody is kept from what takes no room.
        let usable = keeping ? limit - min(limit / 16, Self.reserve) : limit
        if overflows || sum > usable && bytes > 0 && !always {
          return record.isForeign && !hasRecounted ? .uncertain : .refused(limit: limit, record.usage)
        }
        record.usage = sum
        record.stored &+= bytes
        record.reservations += 1
        try write(record)
        return .granted
      }
      switch outcome {
      case .granted: return
      case .refused(let limit, let use): throw .storageQuotaExceeded(quota: limit, use: use)
      case .uncertain:
        try recount(onlyIfDue: true)
        hasRecounted = true
      }
    }
  }

  /// What is left for what deletions and compactions have to write.
  private static let reserve: UInt64 = 1024 * 1024

  private enum Reservation {
    case granted, uncertain
    case refused(limit: UInt64, UInt64)
  }

  /// Ends a reservation, and gives back what is not there any more: what was replaced, or what was not stored after all.
  public func settle(releasing bytes: UInt64) throws(ServeError) {
    try transaction { (record) throws(Errno) in
      record.usage -= min(bytes, record.usage)
      record.reservations -= min(1, record.reservations)
      try write(record)
    }
  }

  /// Gives back what was removed.
  public func release(_ bytes: UInt64) throws(ServeError) {
    guard bytes > 0 else { return }
    try transaction { (record) throws(Errno) in
      record.usage -= min(bytes, record.usage)
      try write(record)
    }
  }

  /// Counts anew what is there, while others go on storing. What they store meanwhile may be counted twice; then the next
  /// count is due again.
  public func recount() throws(ServeError) { try recount(onlyIfDue: false) }

  private func recount(onlyIfDue: Bool) throws(ServeError) {
    try counting.withLock { (_) throws(ServeError) in
      if onlyIfDue {
        let isDue = try transaction { (record) throws(Errno) in record.isUnreliable || record.isForeign }
        guard isDue else { return }
      }
      try count()
    }
  }

  private func count() throws(ServeError) {
    for attempt in 1...Self.attempts {
      let before = try transaction { (record) throws(Errno) in record.stored }
      let found = try ServeError.doing("count the use of", label) { () throws(Errno) in try root.contentSize()
      }
      let isExact: Bool = try transaction { (record) throws(Errno) in
        let meanwhile = record.stored &- before
        let isExact = meanwhile == 0 && record.reservations == 0
        guard isExact || attempt == Self.attempts else { return false }
        record.usage = found &+ meanwhile
        record.isUnreliable = false
        record.isForeign = !isExact
        try write(record)
        return true
      }
      if isExact { return }
    }
  }

  /// How often a count that others disturbed is tried again.
  private static let attempts = 3

  /// Ends the counting. To be called once, after everything else that is done to the directory.
  public func close() throws(ServeError) {
    try transaction { (record) throws(Errno) in
      record.closed += 1
      if try presence.lock(.exclusive, waits: false) {
        record.surroundings = try surroundings()
        if try marker() == record.marker {
          record.marker = try plantMarker(record.usage)
        } else {
          record.isForeign = true
        }
      }
      try write(record)
      try file.sync()
      _ = try presence.lock(.none, waits: false)
    }
  }

  // MARK: The record

  /// 88 bytes, little-endian words: magic, usage, bytes ever stored, how many opened and closed, reservations, flags,
  /// surroundings, marker, limit; and XXH64 of them.
  private struct Record {
    var usage: UInt64 = 0
    /// Bytes ever reserved, by which a count learns whether somebody stored meanwhile.
    var stored: UInt64 = 0
    var opened: UInt64 = 0
    var closed: UInt64 = 0
    /// Reservations that were not settled yet.
    var reservations: UInt64 = 0
    /// Whether the count may be too low.
    var isUnreliable = false
    /// Whether somebody else stored, or removed, without counting.
    var isForeign = false
    var surroundings: UInt64 = 0
    var marker: UInt64 = 0
    var limit: UInt64 = 0
    var isNew = false

    static let size = 88
    static let magic: UInt64 = 0x3145_4741_5355_5342  // "BSUSAGE1"

    init(_ bytes: [UInt8]) {
      guard bytes.count == Self.size, Self.word(bytes, 0) == Self.magic,
        XXH64.hash(bytes.span.extracting(0..<Self.size - 8)) == Self.word(bytes, 10)
      else {
        (isNew, isUnreliable) = (true, true)
        return
      }
      usage = Self.word(bytes, 1)
      stored = Self.word(bytes, 2)
      opened = Self.word(bytes, 3)
      closed = Self.word(bytes, 4)
      reservations = Self.word(bytes, 5)
      isUnreliable = Self.word(bytes, 6) & 1 != 0
      isForeign = Self.word(bytes, 6) & 2 != 0
      surroundings = Self.word(bytes, 7)
      marker = Self.word(bytes, 8)
      limit = Self.word(bytes, 9)
    }

    var encoded: [UInt8] {
      var bytes: [UInt8] = []
      bytes.reserveCapacity(Self.size)
      let flags: UInt64 = (isUnreliable ? 1 : 0) | (isForeign ? 2 : 0)
      for word in [
        Self.magic, usage, stored, opened, closed, reservations, flags, surroundings, marker, limit,
      ] {
        Self.append(word, &bytes)
      }
      Self.append(XXH64.hash(bytes.span), &bytes)
      return bytes
    }

    private static func word(_ bytes: [UInt8], _ index: Int) -> UInt64 {
      (0..<8).reduce(0) { $0 | UInt64(bytes[8 * index + $1]) << UInt64(8 * $1) }
    }

    private static func append(_ word: UInt64, _ bytes: inout [UInt8]) {
      for index in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(8 * index))) }
    }
  }

  /// Reads the record and lets nobody else change it until the body is through.
  private func transaction<Result: Sendable>(_ body: (inout Record) throws(Errno) -> Result)
    throws(ServeError)
    -> Result
  {
    try turn.withLock { (_) throws(ServeError) in
      try ServeError.doing("count the use of", label) { () throws(Errno) in
        _ = try file.lock(.exclusive, waits: true)
        let result = Swift.Result { () throws(Errno) in
          var record = Record(try file.read(at: 0, count: Record.size))
          return try body(&record)
        }
        _ = try file.lock(.none, waits: false)
        return try result.get()
      }
    }
  }

  private func write(_ record: Record) throws(Errno) {
    let bytes = record.encoded
    try file.write(bytes, bytes.indices, at: 0)
  }

  // MARK: Foreign writers

  /// A digest of the times at which the directories at the top were last changed.
  private func surroundings() throws(Errno) -> UInt64 {
    var text: [UInt8] = []
    for name in try root.entries().sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) }) {
      guard !StoreName.isHidden(name), let status = try root.status(name), status.kind == .directory else {
        continue
      }
      text += Array("\(name) \(status.modifiedNanoseconds)\n".utf8)
    }
    return XXH64.hash(text.span)
  }

  /// What tells the marker apart from one that somebody else made; 0 if there is none.
  private func marker() throws(Errno) -> UInt64 { try root.status(Self.markerName)?.inode ?? 0 }

  /// Puts the count where an original with a quota finds it, in a file that is new. Returns what tells it apart.
  private func plantMarker(_ usage: UInt64) throws(Errno) -> UInt64 {
    let temporary = "borg-serve-\(Hex.string(Host.randomBytes(8)))\(StoreName.temporarySuffix)"
    let bytes = Array("\(usage)".utf8)
    let planted = try root.create(temporary)
    do throws(Errno) {
      try planted.write(bytes, bytes.indices, at: 0)
      try root.rename(temporary, to: Self.markerName, in: root)
    } catch {
      _ = try? root.remove(temporary)
      throw error
    }
    return try planted.status().inode
  }
}

extension Directory {
  /// Bytes of all objects below, and of what waits in staging areas to become one; other hidden names do not count. What
  /// vanishes meanwhile does not either. Links are followed as the store follows them.
  func contentSize(isStaging: Bool = false, depth: Int = 0) throws(Errno) -> UInt64 {
    guard depth < 40 else { return 0 }
    var sum: UInt64 = 0
    for name in try entries() {
      let staging = isStaging || name == RepositoryLayout.stagingDirectory
      guard staging || !StoreName.isHidden(name), let status = try status(name) else { continue }
      switch status.kind {
      case .file: sum &+= UInt64(max(0, status.size))
      case .directory:
        do throws(Errno) {
          sum &+= try directory(name).contentSize(isStaging: staging, depth: depth + 1)
        } catch .noSuchFileOrDirectory {
          continue
        }
      case .other: continue
      }
    }
    return sum
  }
}
