import BorgFormat
import Disk
import DiskSimulation
import Synchronization
import SystemPackage

@testable import SegmentRepository

/// Notes what an operation reports. A class because the operation and the test share it.
final class EngineNotes: Reporter {
  private let state = Mutex<[(level: LogLevel, logger: Logger, message: String)]>([])

  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {
    let text = message()
    state.withLock { $0.append((level, logger, text)) }
  }

  func progress(_ progress: Progress) {}

  /// Levels and messages from this level on, what locking says left out.
  func lines(_ lowest: LogLevel = .warning) -> [String] {
    state.withLock { lines in
      lines.filter { $0.level >= lowest && $0.logger != .locking }.map { "\($0.level) \($0.message)" }
    }
  }

  func clear() { state.withLock { $0 = [] } }
}

/// An id that is told apart by its number; 0 is the manifest's.
func numbered(_ number: Int) -> ObjectID {
  number == 0 ? .manifest : ObjectID(UInt64(number) &* 0x0101_0101_0101_0101, 7, 7, UInt64(number))
}

/// A repository on a simulated disk, and the sessions with it, each a process of its own.
struct EngineBed {
  var disk: SimulatedDisk
  let notes = EngineNotes()
  private(set) var process = 0

  /// A new repository with small segments.
  init(
    segmentSize: Int = 400, perDirectory: Int = 4, quota: Int = 0, appendOnly: Bool = false,
    _ options: SimulatedDisk.Options = SimulatedDisk.Options()
  ) throws {
    disk = SimulatedDisk(options)
    let config = """
      [repository]
      version = 1
      segments_per_dir = \(perDirectory)
      max_segment_size = \(segmentSize)
      append_only = \(appendOnly ? 1 : 0)
      storage_quota = \(quota)
      additional_free_space = 0
      id = \(String(repeating: "ab", count: 32))


      """
    try disk.install(Array("This is a Borg Backup repository.\n".utf8), at: "README")
    try disk.install(Array(config.utf8), at: "config")
    try disk.root().makeDirectory("data")
    try disk.root().sync()
  }

  /// Opens the repository as the next process; those before are gone.
  mutating func session(_ change: (inout SegmentRepository.Options) -> Void = { _ in }) throws(ServeError)
    -> SegmentRepository
  {
    process += 1
    let current = process
    var options = SegmentRepository.Options()
    options.lockWait = .zero
    change(&options)
    let identity = LockIdentity(
      hostID: { "here@1" }, processID: current, processIsAlive: { $0 == current })
    return try SegmentRepository(
      root: disk.root(), label: "/repo", options: options, identity: identity, reporter: notes,
      cancellation: Cancellation())
  }

  /// All that a new session finds, or why it finds nothing.
  mutating func contents() throws(ServeError) -> [ObjectID: String] {
    let session = try session()
    let found = try session.everything()
    try session.close()
    return found
  }

  /// Lets a new session check.
  mutating func check(repairs: Bool = false) throws(ServeError) -> Bool {
    let session = try session()
    var request = SegmentRepository.CheckRequest()
    request.repairs = repairs
    let isWhole = try session.check(request)
    try session.close()
    return isWhole
  }

  /// Goes on with what a crash has left. Locks are not this suite's; an empty one would have to be waited for.
  mutating func go(on disk: SimulatedDisk) throws {
    self.disk = disk
    for name in try disk.root().entries() where name.hasPrefix("lock.exclusive") {
      try disk.root().removeTree(name)
    }
    _ = try disk.root().remove("lock.roster")
  }

  /// Each file's bytes, but for those of locks.
  var files: [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for path in disk.paths where !path.hasPrefix("lock.") { files[path] = disk.contents(path) ?? [] }
    return files
  }

  /// Whether there are these and no others. Not a comparison that a failed expectation would print byte by byte.
  func hasFiles(_ other: [String: [UInt8]]) -> Bool { files == other }

  /// Paths that no session may leave behind.
  var leftovers: [String] { disk.paths.filter { $0.contains("tmp") || $0.hasPrefix("lock.") } }

  /// The one file whose name begins so.
  func auxiliary(_ kind: String) -> String? { disk.paths.first { $0.hasPrefix("\(kind).") } }

  /// Three transactions: objects 1 to 6 and the manifest, some overwritten, some deleted.
  static func populated(compact: Bool = false, perDirectory: Int = 4) throws -> (
    EngineBed, [ObjectID: String]
  ) {
    var bed = try EngineBed(perDirectory: perDirectory)
    let session = try bed.session()
    for number in 1...6 { try session.put(number, "object \(number)") }
    try session.put(0, "manifest 1")
    try session.commit(compact: compact)
    try session.put(2, "object two")
    try session.delete(numbered(3))
    try session.put(0, "manifest 2")
    try session.commit(compact: compact)
    try session.put(7, String(repeating: "x", count: 500))
    try session.put(8, "object 8")
    try session.put(0, "manifest 3")
    try session.commit(compact: compact)
    let found = try session.everything()
    try session.close()
    return (bed, found)
  }
}

extension SegmentRepository {
  func put(_ number: Int, _ text: String) throws(ServeError) {
    let bytes = Array(text.utf8)
    try put(numbered(number), bytes, bytes.indices)
  }

  func commit(compact: Bool, threshold: Double = 0.1, cleanup: Bool = false) throws(ServeError) {
    var request = CommitRequest()
    (request.compact, request.threshold, request.cleanupCommits) = (compact, threshold, cleanup)
    try commit(request)
  }

  func text(_ id: ObjectID) throws(ServeError) -> String {
    let object = try locate(id)
    var bytes: [UInt8] = []
    try read(object, into: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  /// All objects by their data; throws if list, scan and count contradict each other.
  func everything() throws(ServeError) -> [ObjectID: String] {
    let ids = try list(limit: nil, after: nil)
    var paged: [ObjectID] = []
    while true {
      let page = try list(limit: 3, after: paged.last)
      if page.isEmpty { break }
      paged += page
    }
    var scanned: [ObjectID] = []
    while true {
      let page = try scan(limit: 4, after: scanned.last)
      if page.isEmpty { break }
      scanned += page
    }
    guard ids == paged, Set(ids).count == ids.count, Set(scanned) == Set(ids), scanned.count == ids.count,
      try count() == ids.count
    else { throw .integrity("list \(ids.map(\.hex)), scan \(scanned.map(\.hex)), count \(try count())") }
    var found: [ObjectID: String] = [:]
    for id in ids { found[id] = try text(id) }
    return found
  }
}

/// The error that a call throws, or nil.
func failure(of body: () throws(ServeError) -> Void) -> ServeError? {
  do {
    try body()
    return nil
  } catch { return error }
}

// MARK: The disk, read by other rules than the engine's

/// What the segments and the stored state of a repository say, read without any of the engine's code.
struct RawRepository {
  struct Entry: Equatable {
    let tag: UInt8
    let id: ObjectID?
    let segment: Int
    let offset: Int
    let size: Int
  }

  private(set) var entries: [Entry] = []
  private(set) var segments: [Int] = []
  /// The last segment with a COMMIT at its end.
  private(set) var committed: Int?

  init(_ disk: SimulatedDisk) {
    for path in disk.paths where path.hasPrefix("data/") && !path.hasSuffix("/") {
      if let number = Int(path.split(separator: "/").last ?? "") { segments.append(number) }
    }
    segments.sort()
    for segment in segments {
      guard
        let path = disk.paths.first(where: { $0.hasPrefix("data/") && $0.hasSuffix("/\(segment)") }),
        let bytes = disk.contents(path)
      else { continue }
      var offset = 8
      while offset + 9 <= bytes.count {
        let size = Int(Self.word(bytes, offset + 4))
        guard size >= 9, offset + size <= bytes.count else { break }
        let key = size >= 41 ? ObjectID(bytes.span.extracting(offset + 9..<offset + 41)) : nil
        entries.append(Entry(tag: bytes[offset + 8], id: key, segment: segment, offset: offset, size: size))
        offset += size
      }
      if entries.last?.segment == segment, entries.last?.tag == 2 { committed = segment }
    }
  }

  private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
    (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32(8 * $1) }
  }

  /// Where each object is after all entries up to the last commit.
  var current: [ObjectID: (segment: Int, offset: Int)] {
    var current: [ObjectID: (segment: Int, offset: Int)] = [:]
    for entry in entries where entry.segment <= committed ?? -1 {
      guard let id = entry.id else { continue }
      current[id] = entry.tag == 0 ? (entry.segment, entry.offset) : nil
    }
    return current
  }

  /// What is wrong with the stored index: a C program's search has to find each object in it, and nothing else.
  func faults(ofIndex bytes: [UInt8]) -> [String] {
    guard bytes.count >= 18, bytes[..<8].elementsEqual("BORG_IDX".utf8) else { return ["no index"] }
    let (entries, buckets) = (Int(Self.word(bytes, 8)), Int(Self.word(bytes, 12)))
    guard bytes[16] == 32, bytes[17] == 8, bytes.count == 18 + 40 * buckets else { return ["bad header"] }
    var faults: [String] = []
    let current = current
    func segment(_ bucket: Int) -> UInt32 { Self.word(bytes, 18 + 40 * bucket + 32) }
    let live = (0..<buckets).count { segment($0) < 0xffff_fffe }
    if live != entries || entries != current.count {
      faults.append("\(live) live buckets, header says \(entries), log says \(current.count)")
    }
    for bucket in 0..<buckets where segment(bucket) > 0xffff_fbff && segment(bucket) < 0xffff_fffe {
      faults.append("bucket \(bucket) has a mark that is no segment")
    }
    for (id, place) in current {
      let key = id.bytes
      var bucket = Int(Self.word(key, 0)) % buckets
      var steps = 0
      while true {
        let start = 18 + 40 * bucket
        let number = segment(bucket)
        if number == 0xffff_ffff || steps > buckets {
          faults.append("\(id.hex) is not found")
          break
        }
        if number != 0xffff_fffe, bytes[start..<start + 32].elementsEqual(key) {
          if Int(number) != place.segment || Int(Self.word(bytes, start + 36)) != place.offset {
            faults.append("\(id.hex) is at another place")
          }
          break
        }
        bucket = (bucket + 1) % buckets
        steps += 1
      }
    }
    return faults
  }

  /// Bytes of a segment that are of no use.
  func freeBytes(of segment: Int) -> Int {
    let current = current
    return entries.filter { $0.segment == segment }.reduce(0) { sum, entry in
      let isCurrent =
        entry.tag == 0 && entry.id.flatMap { current[$0] }.map { $0 == (segment, entry.offset) } ?? false
      return isCurrent ? sum : sum + entry.size
    }
  }

  /// What is wrong with the stored hints of a repository of which no index was ever rebuilt.
  func faults(of hints: Hints) -> [String] {
    var (live, free, shadows) = ([Int: Int](), [Int: Int](), [ObjectID: [Int]]())
    var quota = 0
    let current = current
    for entry in entries where entry.segment <= committed ?? -1 {
      live[entry.segment, default: 0] += 0
      switch entry.tag {
      case 0:
        quota += entry.size
        if let id = entry.id {
          if let place = current[id], place == (entry.segment, entry.offset) {
            live[entry.segment, default: 0] += 1
          } else {
            free[entry.segment, default: 0] += entry.size
            shadows[id, default: []].append(entry.segment)
          }
        }
      default: free[entry.segment, default: 0] += entry.size
      }
    }
    var faults: [String] = []
    let noted = Dictionary(uniqueKeysWithValues: hints.segments.map { (Int($0.key), $0.value) })
    if noted != live {
      faults.append("segments \(noted.sorted { $0.key < $1.key }) and not \(live.sorted { $0.key < $1.key })")
    }
    let compact = Dictionary(uniqueKeysWithValues: hints.compact.map { (Int($0.key), $0.value) })
    if compact != free {
      faults.append(
        "compact \(compact.sorted { $0.key < $1.key }) and not \(free.sorted { $0.key < $1.key })")
    }
    if hints.storageQuotaUse != quota { faults.append("quota \(hints.storageQuotaUse) and not \(quota)") }
    let noted2 = hints.shadowIndex.filter { !$0.value.isEmpty }.mapValues { $0.map { Int($0) }.sorted() }
    if noted2 != shadows.mapValues({ $0.sorted() }) { faults.append("shadows \(noted2) and not \(shadows)") }
    return faults
  }
}
