public import BorgFormat
import Disk
import Storage

extension ObjectRepository {
  /// What a check is asked to do.
  public struct CheckRequest: Sendable {
    /// Delete objects that are corrupted.
    public var repairs: Bool
    /// Go on where the last partial check ended, for about this long; zero checks everything.
    public var maxDuration: Duration
    /// Where partial checks note how far they came.
    public var checkpoint: StoreName

    public init(repairs: Bool, maxDuration: Duration, checkpoint: StoreName) {
      (self.repairs, self.maxDuration, self.checkpoint) = (repairs, maxDuration, checkpoint)
    }
  }

  /// Verifies every repository object's sizes and checksums; true if all is well or was repaired.
  ///
  /// Objects are read in pieces: memory is what the new chunk index takes, 56 bytes an object at most.
  /// Reports as it goes, in the original's words. A full check ends with a new chunk index in place of all
  /// cached ones. Throws `cancelled` when the session ends meanwhile.
  ///
  /// Source: borg 2.0.0b18 `src/borg/repository.py`, `Repository.check`.
  public func check(_ request: CheckRequest) throws(ServeError) -> Bool {
    let isPartial = request.maxDuration > .zero
    guard !(request.repairs && isPartial) else {
      throw .argumentValue("a partial check cannot repair")
    }
    var run = CheckRun(repository: self, request: request, mode: isPartial ? "partial" : "full")
    return try run.run()
  }
}

/// One run of `check`: its position, counts and findings.
private struct CheckRun {
  let repository: ObjectRepository
  let request: ObjectRepository.CheckRequest
  let mode: String
  let started = ContinuousClock.now
  var lastCheckpoint = ContinuousClock.now
  var checked = 0
  var errors = 0
  var index = ChunkIndexBuilder()
  var progress = CheckProgress()
  var buffer = [UInt8](repeating: 0, count: Limits.readBlock)

  private static let checkpointInterval = Duration.seconds(300)
  private static let page = 10_000

  init(repository: ObjectRepository, request: ObjectRepository.CheckRequest, mode: String) {
    self.repository = repository
    self.request = request
    self.mode = mode
  }

  private var isPartial: Bool { request.maxDuration > .zero }
  private var store: any ObjectStore { repository.store }

  private func log(_ level: LogLevel, _ message: String) {
    repository.reporter.log(level, .repository, message)
  }

  mutating func run() throws(ServeError) -> Bool {
    log(.info, "Starting \(mode) repository check")
    var marker = try start()
    defer { repository.reporter.progress(progress.end()) }
    pages: while true {
      guard let page = try store.objects(after: marker, limit: Self.page, foreign: repository.reportForeign)
      else { return finish() }
      for entry in page {
        if repository.cancellation.isCancelled { throw .cancelled }
        try repository.refreshLock()
        try check(entry.id)
        if try isTimeOver(at: entry.id) { break pages }
        if let report = progress.reached(entry.id) { repository.reporter.progress(report) }
      }
      guard page.count == Self.page else {
        try complete()
        break
      }
      marker = page.last?.id
    }
    return finish()
  }

  /// Finds where to begin: behind the last partial check's end, or at the first object.
  private mutating func start() throws(ServeError) -> ObjectID? {
    guard isPartial else {
      _ = try store.delete(request.checkpoint)
      log(.info, "Starting from beginning.")
      return nil
    }
    let key = try store.load(request.checkpoint, limit: Limits.smallObject)
      .map { String(decoding: $0, as: UTF8.self) }
    guard let key, !key.isEmpty else {
      log(.info, "Starting from beginning.")
      return nil
    }
    log(.info, "Skipping to keys after \(key.shortened).")
    let prefix = "\(Namespace.data.rawValue)/"
    return key.hasPrefix(prefix) ? ObjectID(hex: String(key.dropFirst(prefix.count))) : nil
  }

  /// Checks one object, and repairs by deleting it if that is wanted.
  private mutating func check(_ id: ObjectID) throws(ServeError) {
    // Gone since the listing: not there.
    guard let findings = try findings(id) else { return }
    checked += 1
    guard !findings.isEmpty else { return index.insert(id) }
    errors += 1
    report(findings, id)
    guard request.repairs else { return index.insert(id) }
    guard let again = try self.findings(id) else { return report("existing object vanished.", id) }
    report(again, id)
    if again.isEmpty {
      report("reloading did help, inconsistent behaviour detected!", id)
      // The original leaves it out of the index here, and so do we: clients then store it once more.
    } else {
      report("reloading did not help, deleting it!", id)
      try repository.forgetIndexes()
      _ = try store.delete(StoreName(id: id))
    }
  }

  private func report(_ findings: [ObjectFinding], _ id: ObjectID) {
    for finding in findings { report(finding.text, id) }
  }

  private func report(_ text: String, _ id: ObjectID) {
    log(.error, "Repo object \(id.hex) is corrupted: \(text)")
  }

  /// Reads an object through the verifier; nil if it is not there.
  private mutating func findings(_ id: ObjectID) throws(ServeError) -> [ObjectFinding]? {
    guard let object = try store.open(StoreName(id: id)) else { return nil }
    return try ObjectVerifier.findings(in: object, &buffer)
  }

  /// Notes the position now and then; true when a partial check has used up its time.
  private mutating func isTimeOver(at id: ObjectID) throws(ServeError) -> Bool {
    let now = ContinuousClock.now
    let key = StoreName(id: id).text
    if now - lastCheckpoint > Self.checkpointInterval {
      lastCheckpoint = now
      log(.info, "Checkpointing at key \(key).")
      try store.store(request.checkpoint, ObjectContent(Array(key.utf8)))
    }
    guard isPartial, now - started > request.maxDuration else { return false }
    log(.info, "Finished partial repository check, last key checked is \(key).")
    try store.store(request.checkpoint, ObjectContent(Array(key.utf8)))
    return true
  }

  /// All objects were seen: forgets the position, and caches the index of a full check.
  private mutating func complete() throws(ServeError) {
    log(.info, "Finished repository check.")
    _ = try store.delete(request.checkpoint)
    guard !isPartial else { return }
    let index = index.finish()
    let name = try StoreName(parsing: "\(Namespace.cache.rawValue)/\(index.objectName)")
    let upload = try store.upload()
    index.write { piece, range in upload.append(piece, range) }
    try store.store(name, .upload(upload))
    repository.noteNewIndex()
    for other in try repository.indexNames() where other != name { _ = try store.delete(other) }
  }

  private func finish() -> Bool {
    log(.info, "Checked \(checked) repository objects, \(errors) errors.")
    if errors == 0 {
      log(.info, "Finished \(mode) repository check, no problems found.")
    } else if request.repairs {
      log(.info, "Finished \(mode) repository check, errors found and repaired.")
    } else {
      log(.error, "Finished \(mode) repository check, errors found.")
    }
    return errors == 0 || request.repairs
  }
}

/// How far a check has come, told by the ids, which are spread evenly: no need to count objects first.
private struct CheckProgress {
  private var lastPermille = -10
  private var lastReport = ContinuousClock.now
  private let operation = Int.random(in: 1..<1 << 31)

  /// At least this often something goes to the client, so that nobody thinks the connection dead.
  private static let keepAlive = Duration.seconds(10)

  /// A record when there is something new to say.
  mutating func reached(_ id: ObjectID) -> Progress? {
    // In Swift a shift binds tighter than a product.
    let permille = (Int(id.word0 >> 32) * 1000) >> 32
    let now = ContinuousClock.now
    guard permille / 10 != lastPermille / 10 || now - lastReport > Self.keepAlive else { return nil }
    (lastPermille, lastReport) = (permille, now)
    let message = "Checking repository objects \(permille / 10)%"
    return record(message, permille, isFinished: false)
  }

  func end() -> Progress { record("", 1000, isFinished: true) }

  private func record(_ message: String, _ permille: Int, isFinished: Bool) -> Progress {
    Progress(
      operation: operation, messageID: "check.objects", message: message, current: permille, total: 1000,
      isFinished: isFinished)
  }
}

extension ObjectVerifier {
  /// What is wrong with a stored object, which is read through `buffer` piece by piece.
  static func findings(in object: any StoredObject, _ buffer: inout [UInt8]) throws(ServeError)
    -> [ObjectFinding]
  {
    var verifier = Self()
    var offset = 0
    while offset < object.size, !verifier.isComplete {
      let count = try object.read(at: offset, into: &buffer)
      guard count > 0 else { break }
      verifier.update(buffer.span.extracting(0..<count))
      offset += count
    }
    return verifier.findings()
  }
}
