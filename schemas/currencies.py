"""ISO 4217 currency codes -> how many digits of the amount stand behind the point.

Source: the codes in use in list one of ISO 4217, compared with OpenJDK 17.0.15's `java.util.Currency` on 2026-11-21,
and those withdrawn since 2021, because old orders are replayed. Funds codes (BOV, CHE, …), metals (XAU, …) and codes
for testing (XTS, XXX) are left out: nobody pays an order in them. To add a currency: one entry here.
"""

from types import MappingProxyType

_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC"
        " CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR"
        " JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD"
        " NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN"
        " SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
        " ANG BGN CUC HRK SLL ZWL"  # withdrawn 2025, 2026, 2021, 2023, 2022, 2024
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
}

MINOR_DIGITS = MappingProxyType({code: digits for digits, codes in _BY_DIGITS.items() for code in codes.split()})


def format_amount(amount_minor: int, currency: str) -> str:
    """An amount for people: 9491, ILS -> "94.91 ILS"; 9980, JPY -> "9,980 JPY". Machines get the minor units."""
    digits = MINOR_DIGITS.get(currency, 2)
    whole, rest = divmod(abs(amount_minor), 10**digits)
    sign, point = "-" if amount_minor < 0 else "", f".{rest:0{digits}d}" if digits else ""
    return f"{sign}{whole:,}{point} {currency}"
