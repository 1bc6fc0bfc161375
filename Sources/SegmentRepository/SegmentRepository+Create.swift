public import BorgFormat
public import Disk
import SystemPackage

extension SegmentRepository {
  /// What a new repository is to be.
  public struct CreationOptions: Sendable {
    public var appendOnly = false
    /// Bytes, written to the config; nil or 0: none.
    public var storageQuota: UInt64?

    public init() {}
  }

  /// Makes a repository in `root`, an empty directory: README, `data` and config, durably.
  ///
  /// The config comes last: what a crash leaves before is no repository. Throws `pathAlreadyExists` if somebody else makes
  /// one at the same time; after any throw what was made is removed again.
  public static func create(in root: Directory, label: String, _ options: CreationOptions) throws(ServeError)
  {
    let config = RepositoryConfig(
      newWithID: Host.randomBytes(32), appendOnly: options.appendOnly,
      storageQuota: Int(clamping: options.storageQuota ?? 0))
    do throws(Errno) {
      try makeReadme(in: root)
      do throws(Errno) {
        try root.makeDirectory("data")
        try write(config, in: root)
      } catch {
        _ = try? root.remove("README")
        throw error
      }
    } catch {
      throw error == .fileExists
        ? .pathAlreadyExists(label) : .system(SystemFailure("create", label, error))
    }
  }

  /// Of two that create at once, the one that makes this file goes on.
  private static func makeReadme(in root: Directory) throws(Errno) {
    let file = try root.file("README", .createByMask)
    do throws(Errno) {
      try file.write(SegmentReadme.bytes, SegmentReadme.bytes.indices, at: 0)
      try file.syncData()
    } catch {
      _ = try? root.remove("README")
      throw error
    }
  }

  private static func write(_ config: RepositoryConfig, in root: Directory) throws(Errno) {
    var isReplaced = false
    do throws(Errno) {
      // Readme and data are on the disk before the config is.
      try root.sync()
      try root.replace("config", with: config.encode(), isReplaced: &isReplaced)
    } catch {
      _ = try? root.remove("config")
      try? root.removeDirectory("data")
      throw error
    }
  }
}
