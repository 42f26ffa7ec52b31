"""What the sample company's customers and people are called. All of it is made up. Data only."""

from __future__ import annotations

from typing import Final

COINED: Final = (
    "Brindlemoor", "Quillhaven", "Tarnwick", "Oskerley", "Fennbrook", "Larkspire", "Mossgate", "Velloran", "Pinderly",
    "Harrowmint", "Copperfen", "Dunlathe", "Everthorn", "Gildmarsh", "Hollowell", "Ivernest", "Juniperra",
    "Kestrelby", "Lumenford", "Marrowby", "Nettlecombe", "Orrinsdale", "Plumwater", "Quarterlight", "Rookhurst",
    "Saffronry", "Thistlewane", "Umberlyn", "Vantorra", "Wrenfield", "Yarrowick", "Zephyrine", "Aldermoss",
    "Birchwain", "Cindervale", "Drumlindo", "Elmstrand", "Foxbarrow", "Glintworth", "Hazelund",
)  # fmt: skip
TRADES: Final = (
    "Logistics", "Foods", "Analytics", "Robotics", "Textiles", "Dental Group", "Outdoor", "Publishing", "Studios",
    "Biotech", "Insurance", "Energy", "Interiors", "Freight", "Learning", "Hospitality", "Instruments", "Recruiting",
    "Marine", "Games", "Farms", "Optics", "Ceramics", "Travel",
)  # fmt: skip
FORMS: Final = {
    "US": ("Inc.", "LLC", ""), "GB": ("Ltd", ""), "DE": ("GmbH", "AG"), "FR": ("SAS", ""), "NL": ("B.V.", ""),
    "SG": ("Pte. Ltd.", ""), "AU": ("Pty Ltd", ""),
}  # fmt: skip
COINED_JA: Final = (
    "朝霧", "雪椿", "山茶花", "風鈴", "琥珀", "月見草", "ほしくず", "こもれび", "さざなみ", "あさつゆ", "春霞",
    "夕凪", "花筏", "水無月", "若葉坂", "白鷺橋", "青嵐", "いろは坂", "うみねこ", "かざぐるま", "きつねび",
    "しらたま", "すずかぜ", "たんぽぽ野", "つむぎ野", "なのはな", "ひだまり", "ふきのとう", "まつかぜ", "ゆきあかり",
    "よもぎ", "わたゆき",
)  # fmt: skip
TRADES_JA: Final = (
    "物流", "製作所", "商事", "食品", "システム", "設計", "印刷", "電機", "化成", "薬品", "出版", "旅行", "工務店",
    "計測", "精密", "製菓", "水産", "繊維", "メディカル", "ソフト", "人材", "教育", "保険サービス", "デザイン",
)  # fmt: skip

USERS: Final = (
    "Nora Whitlock", "Felix Brandt", "Priya Raman", "Lucas Moreau", "Ingrid Solberg", "Owen Castell", "Maya Lindholm",
    "Theo Vasquez", "Carla Benedek", "Jonas Aldering", "Amira Haddad", "Peter Nyström",
)  # fmt: skip
USERS_JA: Final = (
    "佐伯 美咲", "高瀬 翔太", "長谷部 由衣", "三浦 健吾", "白石 奈々", "桐山 拓海", "水野 彩香", "藤堂 直樹",
    "榎本 里奈", "若林 大輔", "千葉 真央", "久世 隼人",
)  # fmt: skip
ROLES: Final = ("Operations lead", "Analyst", "Team lead", "Finance", "IT", "Director", "Coordinator", "Assistant")

TICKETS: Final = (
    "Export stops at 10,000 rows", "Report shows last month's figures", "Cannot invite a colleague",
    "Import rejects our CSV", "Dashboard is slow on Mondays", "Single sign-on asks twice",
    "Wrong time zone in a report", "API answers 429 in the morning",
)  # fmt: skip
TICKETS_JA: Final = (
    "エクスポートが1万行で止まる", "レポートに先月の数値が表示される", "同僚を招待できない",
    "CSVの取り込みが拒否される", "月曜の朝にダッシュボードが遅い", "シングルサインオンを二度求められる",
    "レポートのタイムゾーンが違う", "朝にAPIが429を返す",
)  # fmt: skip
GOALS: Final = (  # name, the same in Japanese, the signal that shows it, its target; None: as many as there are users
    ("Everybody on one dashboard", "全員が同じダッシュボードを使う", "active_users_28d", None),
    ("Figures at hand on every working day", "毎営業日に数字を確認する", "active_days_28d", 18),
    ("No more copying by hand", "手作業の転記をなくす", "features_used_28d", 6),
)
KNOWN_BETTER: Final = "Pays on the 5th of the month after, as agreed with their accounting"
KNOWN_BETTER_JA: Final = "先方の経理と合意のうえ、翌月5日払い"
PRAISE: Final = ("The reports save us a day each month.", "Support answers quickly.", "Does what we need.", "")
PRAISE_JA: Final = (
    "月次レポートの作成が一日短くなりました。", "サポートの対応が早いです。", "必要なことができます。", "",
)  # fmt: skip
COMPLAINTS: Final = (
    "We still copy figures by hand.", "Too slow, and nobody told us about the change.",
    "Two of us gave up on the export.",
)  # fmt: skip
COMPLAINTS_JA: Final = (
    "結局、手作業で転記しています。", "動作が遅く、変更の連絡もありませんでした。",
    "エクスポートがうまく使えません。",
)  # fmt: skip
