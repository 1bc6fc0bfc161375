import BorgFormat
public import Disk

extension SegmentRepository {
  /// The version of the log of segments in a directory, as its config tells: 1 for Borg 1.x, 2 for early betas of Borg 2;
  /// nil if there is no such config. It does not say that the repository can be opened. Blocking.
  public static func version(in root: Directory) -> Int? {
    guard let status = try? root.status("config"), status.kind == .file else { return nil }
    guard let text = try? root.content("config", limit: Limits.repositoryConfig) else { return 1 }
    do {
      _ = try RepositoryConfig(parsing: text)
      return 1
    } catch .unsupportedVersion(let version) {
      return version
    } catch {
      return 1
    }
  }
}
