import BorgFormat
import Disk
import SystemPackage

// Index, hints and integrity data of a transaction on their way to the disk.
extension SegmentRepository {
  /// Stores the state of a committed transaction, durably, and removes that of all others.
  ///
  /// The order is the original's: a crash in between leaves the old state whole, or a new one that is noticed to be
  /// incomplete. Source: borg 1.4.5 `src/borg/repository.py`, `Repository.write_index`.
  func storeIndex(_ index: SegmentIndex, _ hints: Hints, _ transaction: UInt32) throws(ServeError) {
    if isAppendOnly { try noteTransaction(transaction) }
    let names = ["hints", "index", "integrity"].map { "\($0).\(transaction)" }
    do {
      let encoded = hints.encode()
      let hintsDigest = try write(names[0]) { (part) throws(ServeError) in try part(encoded, encoded.indices)
      }
      let indexDigest = try write(names[1], header: IndexFormat.headerSize) { (part) throws(ServeError) in
        try index.write(part)
      }
      let integrity = IntegrityData(hints: hintsDigest, index: indexDigest).encode()
      _ = try write(names[2]) { (part) throws(ServeError) in try part(integrity, integrity.indices) }
      try ServeError.doing("store", "the index") { () throws(Errno) in
        // The digests first: they fit to no older file.
        try root.rename("\(names[2]).tmp", to: names[2], in: root)
        try root.sync()
        try root.rename("\(names[0]).tmp", to: names[0], in: root)
        try root.rename("\(names[1]).tmp", to: names[1], in: root)
        try root.sync()
      }
    } catch {
      for name in names { _ = try? root.remove("\(name).tmp") }
      throw error
    }
    try ServeError.doing("remove", "old indexes") { () throws(Errno) in
      for name in try root.entries() where Self.isAuxiliary(name) && !name.hasSuffix(".\(transaction)") {
        try root.remove(name)
      }
    }
  }

  /// Whether a file of the repository's directory belongs to the state of some transaction.
  static func isAuxiliary(_ name: String) -> Bool {
    ["index.", "hints.", "integrity."].contains { name.hasPrefix($0) }
  }

  /// Writes `NAME.tmp`, durably; returns its digest under its final name. An index has a header with a digest of its own.
  private func write(
    _ name: String, header: Int = 0,
    _ body: ((([UInt8], Range<Int>) throws(ServeError) -> Void)) throws(ServeError) -> Void
  ) throws(ServeError) -> FileDigest {
    let temporary = "\(name).tmp"
    let file = try ServeError.doing("create", temporary) { () throws(Errno) in
      try root.remove(temporary)
      return try root.file(temporary, .createByMask)
    }
    var digester = FileDigester(fileName: name)
    var (offset, writtenBack) = (0, 0)
    try body { (bytes, range) throws(ServeError) in
      digester.update(bytes, range)
      try ServeError.doing("write", temporary) { () throws(Errno) in try file.write(bytes, range, at: offset)
      }
      offset += range.count
      if offset == header { digester.part(FileDigest.header, at: offset) }
      if offset - writtenBack >= Self.writebackStep {
        file.startWriteback(at: writtenBack, count: offset - writtenBack)
        writtenBack = offset
      }
    }
    digester.part(FileDigest.final, at: offset)
    try ServeError.doing("make durable", temporary) { () throws(Errno) in try file.sync() }
    return digester.digest
  }

  /// Bytes after which the disk is asked to begin.
  private static var writebackStep: Int { 32 << 20 }

  /// Adds a line to the list of transactions, which is there for whoever has to go back to one.
  private func noteTransaction(_ transaction: UInt32) throws(ServeError) {
    let line = TransactionLog.line(transaction: transaction, time: Timestamp(milliseconds: Host.now()))
    try ServeError.doing("write", "transactions") { () throws(Errno) in
      let file: OpenFile
      do throws(Errno) {
        file = try root.file("transactions", .update)
      } catch .noSuchFileOrDirectory {
        file = try root.file("transactions", .createByMask)
      }
      try file.write(line, line.indices, at: try file.size())
    }
  }
}
