import BorgFormat
import Disk
import Synchronization
import SystemPackage

/// A file in a staging area that grows while its bytes arrive.
final class StagedUpload: Upload {
  let area: StagingArea
  let name: String
  /// What it is to become, for messages: a client need not know where it waits.
  private let label: String
  private let progress: Mutex<Progress>

  private struct Progress {
    var file: OpenFile?
    var size = 0
    var writeback = 0
    var failure: ServeError?
  }

  /// Bytes after which write-back of what has arrived is started, so that the barrier finds little to do.
  private static let writebackStep = 1024 * 1024

  init(in area: StagingArea, label: String) throws(ServeError) {
    let name = area.nextName()
    let file = try ServeError.doing("create", label) { () throws(Errno) in
      try area.directory.create(name)
    }
    self.area = area
    self.name = name
    self.label = label
    self.progress = Mutex(Progress(file: file))
  }

  // One thread appends, and a later one finishes: the lock orders them, it never waits, so I/O under it
  // holds up nobody.
  func append(_ bytes: [UInt8], _ range: Range<Int>) {
    progress.withLock { progress in
      guard progress.failure == nil, let file = progress.file else { return }
      do throws(Errno) {
        try file.write(bytes, range, at: progress.size)
      } catch {
        progress.failure = .system(SystemFailure("write", label, error))
        return
      }
      progress.size += range.count
      if progress.size - progress.writeback >= Self.writebackStep {
        file.startWriteback(at: progress.writeback, count: progress.size - progress.writeback)
        progress.writeback = progress.size
      }
    }
  }

  /// Closes the file, synced if asked to; returns its size, or throws what failed on the way.
  func finish(sync: Bool) throws(ServeError) -> Int {
    let result: Result<Int, ServeError> = progress.withLock { progress in
      defer { progress.file = nil }
      if let failure = progress.failure { return .failure(failure) }
      do throws(Errno) {
        if sync { try progress.file?.sync() }
        return .success(progress.size)
      } catch {
        return .failure(.system(SystemFailure("make durable", label, error)))
      }
    }
    do {
      return try result.get()
    } catch {
      abandon()
      throw error
    }
  }

  /// Opens what has arrived, for reading. `ENOENT` once it was published or abandoned.
  func open() throws(Errno) -> OpenFile { try area.directory.file(name) }

  func content() throws(ServeError) -> any StoredObject {
    if let failure = progress.withLock({ $0.failure }) { throw failure }
    return try ServeError.doing("read", label) { () throws(Errno) in
      let file = try open()
      return StoredFile(file: file, size: try file.size(), name: label)
    }
  }

  func abandon() {
    progress.withLock { $0.file = nil }
    _ = try? area.directory.remove(name)
  }
}

/// An object in a file.
struct StoredFile: StoredObject {
  let file: OpenFile
  let size: Int
  let name: String

  func read(at offset: Int, into buffer: inout [UInt8]) throws(ServeError) -> Int {
    do {
      return try file.read(at: offset, into: &buffer)
    } catch {
      throw .system(SystemFailure("read", name, error))
    }
  }

  func send(at offset: Int, count: Int, to output: ByteOutput) throws -> Int? {
    do {
      return try output.send(file, at: offset, count: count)
    } catch {
      if error == .brokenPipe || error == .connectionReset { throw error }
      throw ServeError.system(SystemFailure("read", name, error))
    }
  }
}
